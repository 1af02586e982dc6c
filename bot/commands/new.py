"""`!nouveau`: begin a new conversation; the command itself marks where it begins in the room."""

from bot.commands.registry import CommandContext, command


@command("nouveau", "new")
async def begin_anew(context: CommandContext) -> str:
    """Return the confirmation."""
    return context.texts("new conversation")
