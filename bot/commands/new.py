"""`!nouveau`: what came before counts no more; the command in the room marks from where."""

from bot.commands.registry import CommandContext, command


@command("nouveau", "new")
async def begin_anew(context: CommandContext) -> str:
    """Say that a new conversation begins."""
    return context.texts("new conversation")
