"""The traffic of a run: people who ask for story after story, and the times of their replies."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

from bot.core.events import EventId, RoomId, UserId
from bot.core.markdown import render
from tests.chaos.story import ask, tell
from tests.harness.client_view import Seen
from tests.harness.expectations import answers
from tests.harness.person import Person

_LONGEST_PAUSE = 1.0  # seconds between a reply and the next prompt
_ANEW = 10  # prompts until a new conversation or thread begins
_MINDS = ("keep",) * 6 + ("edit", "edit at last", "redact", "redact at last")


@dataclass(slots=True)
class ChaosPrompt:
    """One prompt of a person.

    Attributes:
        joined: number of prompts that were sent in a row with it.
        writing: begin and end of its sending, in seconds since the epoch. The bot may receive it
            before its event id is known here.
        shown: times at which its reply changed, by the homeserver's clock, in seconds since the
            epoch.
        edited: whether an edit asks for another story.
        whole: whether its sender saw the whole reply.
        withdrawn: whether it was redacted, so that it must have no reply.
    """

    number: int
    event_id: EventId
    room_id: RoomId
    joined: int
    writing: tuple[float, float] = (0.0, 0.0)
    shown: list[float] = field(default_factory=list)
    edited: bool = False
    whole: bool = False
    withdrawn: bool = False


@dataclass(slots=True)
class Traffic:
    """All prompts of a run, in the order of their sending."""

    prompts: list[ChaosPrompt] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    _known: dict[EventId, ChaosPrompt] = field(default_factory=dict)

    @property
    def outstanding(self) -> Sequence[ChaosPrompt]:
        """The prompts whose senders have seen no whole reply yet."""
        return [prompt for prompt in self.prompts if not prompt.whole]

    def add(self, prompt: ChaosPrompt) -> None:
        """Add a prompt that was sent."""
        self.prompts.append(prompt)
        self._known[prompt.event_id] = prompt
        self.asked.set()

    def see(self, seen: Seen) -> None:
        """Record a change of a message."""
        answered = [self._known[one] for one in answers(seen) if one in self._known]
        whole = bool(answered) and seen.body == render(tell([p.number for p in answered])).body
        for prompt in answered:
            prompt.shown.append(seen.versions[-1].timestamp / 1000)
            prompt.whole = prompt.whole or whole
        if not self.outstanding:
            self.asked.clear()


@dataclass(slots=True, kw_only=True)
class Lane:
    """One conversation, in which a person sends the next prompt, or two, after each reply.

    Attributes:
        salon: whether it is in threads of a salon, each begun by a mention.
    """

    traffic: Traffic
    person: Person
    bot: UserId
    room_id: RoomId
    salon: bool
    dice: random.Random
    _root: EventId | None = None

    async def run(self, enough: asyncio.Event) -> None:
        """Send prompts until `enough` is set, and wait for the replies.

        The person may edit or redact a single prompt during its reply, or after it.
        """
        changes = self.person.changes(self.room_id)
        while not enough.is_set():
            in_a_row = self.dice.choice((1, 1, 1, 2))
            asked = [await self._ask(in_a_row) for _ in range(in_a_row)]
            mind = self.dice.choice(_MINDS) if in_a_row == 1 else "keep"
            if mind in {"edit", "redact"}:
                await asyncio.sleep(self.dice.uniform(0, _LONGEST_PAUSE))
                await self._change(asked[0], mind)
            await self._see(changes, asked)
            if mind.endswith("at last"):
                await self._change(asked[0], mind)
                await self._see(changes, asked)
            await asyncio.sleep(self.dice.uniform(0, _LONGEST_PAUSE))

    async def _see(self, changes: AsyncIterator[Seen], asked: Sequence[ChaosPrompt]) -> None:
        while not all(prompt.whole for prompt in asked):
            self.traffic.see(await anext(changes))

    async def _change(self, prompt: ChaosPrompt, mind: str) -> None:
        """Edit a prompt so that it asks for another story, or redact it."""
        if mind.startswith("redact"):
            prompt.withdrawn = prompt.whole = True
            await self.person.redact(self.room_id, prompt.event_id)
            if self._root == prompt.event_id:
                self._root = None
            return
        prompt.number, prompt.whole = next(self.traffic.numbers), False
        prompt.edited = True
        mentioned = self.bot if self._root == prompt.event_id else None
        await self.person.edit(
            self.room_id, prompt.event_id, ask(prompt.number), mentioning=mentioned
        )

    async def _ask(self, in_a_row: int) -> ChaosPrompt:
        if self.dice.randrange(_ANEW) == 0:
            await self._begin_anew()
        number = next(self.traffic.numbers)
        mentioned = self.bot if self.salon and self._root is None else None
        begun = datetime.now(UTC).timestamp()
        event_id = await self.person.write(
            self.room_id, ask(number), mentioning=mentioned, thread=self._root
        )
        if self.salon and self._root is None:
            self._root = event_id
        writing = begun, datetime.now(UTC).timestamp()
        prompt = ChaosPrompt(number, event_id, self.room_id, in_a_row - 1, writing)
        self.traffic.add(prompt)
        return prompt

    async def _begin_anew(self) -> None:
        if self.salon:
            self._root = None
        else:
            await self.person.write(self.room_id, "!nouveau")
