"""`!sources`: what the last reply stands on."""

from bot.commands.registry import CommandContext, command


@command("sources", "sources")
async def show_sources(context: CommandContext) -> str:
    """Say that there are none: the model alone has answered."""
    return context.texts("no sources")
