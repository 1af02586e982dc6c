"""`!nouveau`: what came before counts no more; the command in the room marks from where."""

from bot.commands.registry import Call, command


@command("nouveau", "new")
async def begin_anew(call: Call) -> str:
    """Say that a new conversation begins."""
    return call.texts("new conversation")
