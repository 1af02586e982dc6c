"""`!stop`: end the reply that is being written."""

from bot.commands.registry import CommandContext, command


@command("stop", "stop")
async def stop(context: CommandContext) -> str | None:
    """Stop the person's reply in this conversation, else their oldest one in the room."""
    at = context.prompt.messages[-1].timestamp  # later prompts are not meant
    # The oldest comes first, since it is the one being written.
    running = context.generations.of_room(context.prompt.room_id)[::-1]
    running = [one for one in running if one.prompt.messages[0].timestamp <= at]
    in_conversation = [
        one for one in running if one.prompt.conversation == context.prompt.conversation
    ]
    own = [one for one in running if one.prompt.sender == context.sender]
    for one in [*in_conversation, *own]:
        if one.prompt.sender == context.sender and await one.stop():
            return None
    return context.texts("not yours to stop" if in_conversation and not own else "nothing to stop")
