"""From an event to its intent: resolve, wait for keys, apply limits, start each event once."""
