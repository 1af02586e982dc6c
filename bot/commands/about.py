"""`!apropos`: show version, model, status page and contact."""

from bot.commands.registry import CommandContext, command


@command("apropos", "about")
async def tell_about(context: CommandContext) -> str:
    """Return the text about the service."""
    about, texts = context.about, context.texts
    lines = [texts("about", version=about.version, label=context.card.label)]
    if about.status_page is not None:
        lines.append(texts("about status", url=about.status_page))
    if about.contact is not None:
        lines.append(texts("about contact", contact=about.contact))
    return "  \n".join(lines)
