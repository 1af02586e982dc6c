"""What a prompt is asked with: its conversation, read from the room, and who is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bot.core.events import Conversation, Prompt, UserId
from bot.core.model_catalog import Catalogue, ModelCard
from bot.core.prompt_context import Context, History, build_context, enough
from bot.core.transcript import TranscriptMessage
from bot.i18n.texts import Language, Texts, speak
from bot.ports.clock import Clock
from bot.ports.ledger import Choices, Store
from bot.ports.matrix import Matrix
from bot.replies.completion import Completions
from bot.runtime.retry import retry_until_accepted

_PATIENCE = 600.0  # seconds for which the conversation is asked for
_REQUESTS_READ = 2  # times the longest request: so much of a conversation is read


@dataclass(frozen=True, slots=True)
class Chosen:
    """Who answers in a conversation, and in what words the bot itself speaks there."""

    card: ModelCard
    texts: Texts


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator has set.

    Attributes:
        language: where nobody has chosen another.
        idle_limit: seconds of silence after which a direct message begins anew.
        heeds: tells whose commands count.
        prompt_version: changes with the system prompt.
    """

    system_prompt: str
    catalogue: Catalogue
    language: Language
    idle_limit: float
    heeds: Callable[[UserId], bool] = bool
    prompt_version: str = ""


class Contexts:
    """Makes contexts; nothing of them is kept but in the Matrix port's memory."""

    def __init__(
        self, matrix: Matrix, store: Store, clock: Clock, completions: Completions, how: Settings
    ) -> None:
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._completions = completions
        self._how = how

    @property
    def prompt_version(self) -> str:
        """Tell which system prompt models are asked with."""
        return self._how.prompt_version

    async def chosen(self, conversation: Conversation) -> Chosen:
        """Return what holds in the conversation."""
        return self.chosen_by(await self._store.choices(conversation))

    def chosen_by(self, choices: Choices) -> Chosen:
        """Return what holds where people have chosen so."""
        card = self._how.catalogue.by_id(choices.model)
        return Chosen(card, speak(choices.language or self._how.language))

    async def of(self, prompt: Prompt, card: ModelCard) -> Context:
        """Return what `card` is asked with."""
        return build_context(
            self._how.system_prompt,
            await self.history(prompt, card, within=_PATIENCE),
            prompt,
            direct=self._matrix.room(prompt.room_id).direct,
            idle_limit=self._how.idle_limit,
            heeds=self._how.heeds,
        )

    async def history(
        self, prompt: Prompt, card: ModelCard, *, within: float | None = None
    ) -> History:
        """Return the prompt's conversation, as far back as `card` may need it.

        Args:
            prompt: what is asked.
            card: who is asked.
            within: seconds for which the homeserver is asked; None for as long as it takes.
        """
        idle_limit = self._how.idle_limit
        longest = _REQUESTS_READ * self._completions.longest_request(card)

        def known(said: Sequence[TranscriptMessage]) -> bool:
            return enough(said, prompt, idle_limit, longest)

        return await retry_until_accepted(
            self._clock, lambda: self._matrix.history(prompt, known), within=within
        )

    def remarks(self, context: Context, texts: Texts) -> list[str]:
        """Return the lines that say what the person must know of the context."""
        lines = []
        if context.silent:
            lines.append(texts("idle", n=max(round(self._how.idle_limit / 60), 1)))
        if context.unreadable:
            lines.append(texts("unreadable earlier", n=context.unreadable))
        return lines
