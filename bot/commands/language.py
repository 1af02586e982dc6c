"""`!langue`: choose the language of the bot's own sentences in a conversation."""

from bot.commands.registry import CommandContext, command
from bot.i18n.texts import Language, speak
from bot.ports.ledger import Choices

_LANGUAGES: dict[str, Language] = {
    "fr": "fr",
    "français": "fr",
    "francais": "fr",
    "french": "fr",
    "en": "en",
    "anglais": "en",
    "english": "en",
}


@command("langue", "language")
async def choose_language(context: CommandContext) -> str:
    """Store the language, and return the confirmation in that language."""
    language = _LANGUAGES.get(context.argument.strip().lower())
    if language is None:
        return context.texts("language not known")
    if not context.may_choose:
        return context.texts("moderators only")
    await context.store.choose(context.scope, Choices(language=language))
    return speak(language)("language chosen")
