"""The cost of a prompt's context if its conversation is warm: it is in memory."""

import gc
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import count
from typing import cast

from bench.rows import Row
from bot.core.chat import Delta, FinishDelta, Turn
from bot.core.events import Conversation, Edit, EventId, Message, Prompt, Room, RoomId, UserId
from bot.core.model_catalog import Catalogue, ModelCard
from bot.core.prompt_context import History
from bot.core.transcript import TranscriptMessage
from bot.matrix.history import Histories
from bot.matrix.nio_client import SafeClient
from bot.monitoring.health import Health
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.ports.model import Model
from bot.replies.completion import Completions, FallbackPolicy
from bot.replies.context_builder import Contexts, ContextSettings
from bot.runtime.clock import SystemClock

_TURNS = 20, 100, 400
_ROUNDS = 10
_CALLS = 10  # calls per sample
_OTHERS = 180  # other conversations of 100 turns; with them, the bot's memory is almost full
_GOAL_MS, _GOAL_TURNS = 2.0, 100

_CARD = ModelCard(
    id="scripted",
    label="scripted",
    key="scripted",
    context_length=32_000,
    max_tokens=2048,
    temperature=None,
)
_SETTINGS = ContextSettings(
    system_prompt="Vous êtes l'Assistant IA. " * 77,
    catalogue=Catalogue([_CARD]),
    language="fr",
    idle_limit=3600.0,
)
_ME, _PERSON = UserId("@bot:x"), UserId("@person:x")

_PROMPT = (
    "Où l'agent muté à l'étranger dépose-t-il son dossier, et qui le reçoit ? Merci d'avance. "
)
_REPLY = """\
**Le cœur de l'affaire** : deux étapes, dont la première s'achève à l'accueil…

1. Déposez le dossier *complété* au guichet n° 3 ;
2. attendez la réponse écrite (deux mois au plus).

"""


def prompt_text(number: int) -> str:
    """Return a question of 200 characters, different for each number."""
    return f"{number}. {_PROMPT * 3}"[:200].strip()


def versions(number: int) -> list[str]:
    """Return the growing versions of a French reply with Markdown, up to 1,450 characters."""
    text = f"Réponse n° {number}.\n\n{_REPLY * 8}"
    return [text[:length].strip() for length in (350, 700, 1050, 1450)]


class _Listener:
    """A model that records its request, and returns an empty completion."""

    request: Sequence[Turn] = ()

    def context_length(self, card: ModelCard) -> int:
        """Return the context length of the card."""
        return card.context_length

    async def stream(self, turns: Sequence[Turn], _: ModelCard) -> AsyncGenerator[Delta, None]:
        """Yield only the end of the completion."""
        self.request = turns
        yield FinishDelta("stop")


class Asking:
    """The bot's own code from a prompt to the request of the model."""

    def __init__(self, matrix: Matrix) -> None:
        self._model = _Listener()
        clock = SystemClock()
        model = cast("Model", self._model)
        self._completions = Completions(model, clock, Health(clock=clock), FallbackPolicy())
        self._contexts = Contexts(matrix, cast("Store", None), clock, self._completions, _SETTINGS)

    @property
    def request(self) -> list[dict[str, str]]:
        """The messages of the last request, as in the OpenAI API."""
        return [{"role": turn.role, "content": turn.text} for turn in self._model.request]

    async def ask(self, prompt: Prompt) -> None:
        """Build the context, and send it to the model."""
        context = await self._contexts.of(prompt, _CARD)
        async for _ in self._completions.begin(context.turns, _CARD).stream():
            pass


class _Memory:
    """The two methods of the Matrix port that a context needs, on the adapter's memory."""

    def __init__(self) -> None:
        # There is no homeserver: a warm conversation needs no request.
        self._histories = Histories(cast("SafeClient", None), _ME)
        self._numbers = count()

    def room(self, room_id: RoomId) -> Room:
        """Return a direct message."""
        return Room(room_id=room_id, direct=True)

    async def history(
        self, prompt: Prompt, enough: Callable[[Sequence[TranscriptMessage]], bool]
    ) -> History:
        """Return the conversation."""
        return await self._histories.read(prompt, {}, enough)

    def converse(self, turns: int) -> Prompt:
        """Receive a conversation of that many turns, and return the prompt after it."""
        room_id = RoomId(f"!{next(self._numbers)}:x")
        conversation, clock = Conversation(room_id, None), count(round(time.time() * 1000))  # noqa: TID251  # the homeserver's
        for number in count():
            event_id = EventId(f"${number}:{room_id}")
            prompt = Message(
                event_id=event_id,
                room_id=room_id,
                sender=_PERSON,
                msgtype="m.text",
                body=prompt_text(number),
                timestamp=next(clock),
            )
            if number == 0:
                self._histories.begin(conversation, prompt)
            else:
                self._histories.update(prompt)
            if number == turns // 2:
                return Prompt((prompt,), conversation)
            self._answer(prompt, number, clock)
        raise AssertionError("numbers have no end")

    def _answer(self, prompt: Message, number: int, clock: "count[int]") -> None:
        room_id, reply = prompt.room_id, EventId(f"{prompt.event_id}:reply")
        answers = (prompt.event_id,)
        first, *edits = versions(number)
        self._histories.update(
            Message(
                event_id=reply,
                room_id=room_id,
                sender=_ME,
                msgtype="m.text",
                body=first,
                timestamp=next(clock),
                answers=answers,
            )
        )
        for part, text in enumerate(edits):
            event_id = EventId(f"{reply}:{part}")
            self._histories.update(
                Edit(
                    event_id=event_id,
                    room_id=room_id,
                    sender=_ME,
                    target=reply,
                    body=text,
                    timestamp=next(clock),
                    answers=answers,
                )
            )


async def warm() -> list[Row]:
    """Measure warm contexts, and compare with writing the same request as JSON."""
    rows: list[Row] = []
    for others in (0, _OTHERS):
        memory = _Memory()
        asking = Asking(cast("Matrix", memory))
        for _ in range(others):
            await asking.ask(memory.converse(100))
        prompts = {turns: memory.converse(turns) for turns in _TURNS}
        besides = ", memory full" if others else ""
        found = {
            turns: Row(f"{turns} turns{besides}", _GOAL_MS if turns <= _GOAL_TURNS else None)
            for turns in _TURNS
        }
        for number in range(_ROUNDS + 1):
            for turns, row in found.items():
                ours, written = await _ask_warm(asking, prompts[turns])
                if number:  # the first call only warms up
                    row.bot.append(ours)
                    row.beside.append(written)
                assert len(asking.request) == turns + 2 or turns > _GOAL_TURNS, (
                    "not the conversation"
                )
        rows += found.values()
    return rows


async def _ask_warm(asking: Asking, prompt: Prompt) -> tuple[float, float]:
    """Return the milliseconds of the bot, and those of writing the JSON."""
    gc.collect()  # garbage of earlier rounds
    began = time.perf_counter()
    for _ in range(_CALLS):
        await asking.ask(prompt)
    asked = time.perf_counter()
    for _ in range(_CALLS):
        json.dumps(asking.request)
    written = time.perf_counter()
    return (asked - began) * 1000 / _CALLS, (written - asked) * 1000 / _CALLS
