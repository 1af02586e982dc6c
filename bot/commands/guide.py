"""`!aide`: show the commands."""

from bot.commands.registry import CommandContext, command

_ALL = {"tout", "all"}


@command("aide", "help")
async def show_help(context: CommandContext) -> str:
    """Return the short help, or all of it."""
    return context.texts("help all" if context.argument.strip().lower() in _ALL else "help")


@command("aide", "help", admin=True)
async def show_admin_help(context: CommandContext) -> str:
    """Return the commands of the admin room."""
    return context.texts("help admin")
