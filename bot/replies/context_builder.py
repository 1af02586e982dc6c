"""The context of a prompt: its conversation, read from the room, and the model that is asked."""

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

_PATIENCE = 600.0  # seconds of attempts at reading the conversation
_REQUESTS_READ = 2  # how many times the longest request is read of a conversation


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model and the language of a conversation."""

    card: ModelCard
    texts: Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSettings:
    """Settings of the operator.

    Attributes:
        system_prompt: the system prompt, "" for none.
        catalogue: the models.
        language: the bot's language if nobody has chosen another.
        idle_limit: seconds of silence after which a direct message begins anew.
        heeds: whether the bot acts on what a person writes; if not, their commands do not count.
        prompt_version: the version of the system prompt.
    """

    system_prompt: str
    catalogue: Catalogue
    language: Language
    idle_limit: float
    heeds: Callable[[UserId], bool] = bool
    prompt_version: str = ""


class Contexts:
    """Builds contexts; only the Matrix port keeps conversations in memory."""

    def __init__(
        self,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        completions: Completions,
        settings: ContextSettings,
    ) -> None:
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._completions = completions
        self._settings = settings

    @property
    def prompt_version(self) -> str:
        """The version of the system prompt."""
        return self._settings.prompt_version

    async def chosen(self, conversation: Conversation) -> Chosen:
        """Return the model and the language of the conversation."""
        return self.chosen_by(await self._store.choices(conversation))

    def chosen_by(self, choices: Choices) -> Chosen:
        """Return the model and the language for these choices."""
        card = self._settings.catalogue.by_id(choices.model)
        return Chosen(card, speak(choices.language or self._settings.language))

    async def of(self, prompt: Prompt, card: ModelCard) -> Context:
        """Return the context of `prompt` for the model `card`."""
        return build_context(
            self._settings.system_prompt,
            await self.history(prompt, card, within=_PATIENCE),
            prompt,
            direct=self._matrix.room(prompt.room_id).direct,
            idle_limit=self._settings.idle_limit,
            heeds=self._settings.heeds,
        )

    async def history(
        self, prompt: Prompt, card: ModelCard, *, within: float | None = None
    ) -> History:
        """Return the prompt's conversation, as far back as `card` may need it.

        Args:
            prompt: the prompt.
            card: the model.
            within: seconds of attempts at reading it; None for as many as it takes.

        Raises:
            MatrixError: it could not be read.
        """
        idle_limit = self._settings.idle_limit
        longest = _REQUESTS_READ * self._completions.longest_request(card)

        def is_enough(messages: Sequence[TranscriptMessage]) -> bool:
            return enough(messages, prompt, idle_limit, longest)

        return await retry_until_accepted(
            self._clock, lambda: self._matrix.history(prompt, is_enough), within=within
        )

    def remarks(self, context: Context, texts: Texts) -> list[str]:
        """Return the sentences for the person: what the context lacks of the conversation."""
        lines = []
        if context.silent:
            lines.append(texts("idle", n=max(round(self._settings.idle_limit / 60), 1)))
        if context.unreadable:
            lines.append(texts("unreadable earlier", n=context.unreadable))
        return lines
