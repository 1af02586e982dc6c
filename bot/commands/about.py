"""`!apropos`: version, model, status page, contact."""

from bot.commands.registry import Call, command


@command("apropos", "about")
async def tell_about(call: Call) -> str:
    """Return what is known of the service."""
    about, texts = call.desk.about, call.texts
    lines = [texts("about", version=about.version, label=call.card.label)]
    if about.status_page is not None:
        lines.append(texts("about status", url=about.status_page))
    if about.contact is not None:
        lines.append(texts("about contact", contact=about.contact))
    return "  \n".join(lines)
