"""`!sources`: show the sources of the last reply."""

from bot.commands.registry import CommandContext, command


@command("sources", "sources")
async def show_sources(context: CommandContext) -> str:
    """Return that there are no sources: replies come from the model alone."""
    return context.texts("no sources")
