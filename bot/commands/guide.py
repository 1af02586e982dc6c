"""`!aide`: what one can write here."""

from bot.commands.registry import Call, command

_ALL = {"tout", "all"}


@command("aide", "help")
async def show_help(call: Call) -> str:
    """Return the short help, or everything."""
    return call.texts("help all" if call.argument.strip().lower() in _ALL else "help")


@command("aide", "help", admin=True)
async def show_admin_help(call: Call) -> str:
    """Return what the admins can write."""
    return call.texts("help admin")
