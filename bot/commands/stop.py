"""`!stop`: end the answer that is being written."""

from bot.commands.registry import Call, command


@command("stop", "stop")
async def stop(call: Call) -> str | None:
    """Stop the answer of this conversation, else the person's last one in the room."""
    asked_at = call.prompt.messages[-1].timestamp  # what is asked after it, it does not mean
    running = [
        one
        for one in call.desk.answers.of_room(call.prompt.room_id)[
            ::-1
        ]  # who was first, is written
        if one.prompt.messages[0].timestamp <= asked_at
    ]
    here = [one for one in running if one.prompt.conversation == call.prompt.conversation]
    mine = [one for one in running if one.prompt.sender == call.sender]
    for one in [*here, *mine]:
        if one.prompt.sender == call.sender and await one.stop():
            return None
    return call.texts("not yours to stop" if here and not mine else "nothing to stop")
