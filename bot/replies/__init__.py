"""From a prompt to its reply: schedule, build the context, stream, deliver."""
