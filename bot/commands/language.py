"""`!langue`: the language of the bot's own sentences in a conversation."""

from bot.commands.registry import Call, command
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
async def choose_language(call: Call) -> str:
    """Return that the language is chosen, in that language."""
    language = _LANGUAGES.get(call.argument.strip().lower())
    if language is None:
        return call.texts("language not known")
    if not call.may_choose:
        return call.texts("moderators only")
    await call.desk.store.choose(call.place, Choices(language=language))
    return speak(language)("language chosen")
