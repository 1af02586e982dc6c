"""`!sources`: what the last reply stands on."""

from bot.commands.registry import Call, command


@command("sources", "sources")
async def show_sources(call: Call) -> str:
    """Say that there are none: the model alone has answered."""
    return call.texts("no sources")
