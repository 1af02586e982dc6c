"""The cost of a long queue of prompts for the event loop."""

import time
from collections.abc import Callable
from typing import cast

from bench.rows import Row
from bot.core.events import Conversation, EventId, Message, Prompt, Room, RoomId, UserId
from bot.i18n.texts import speak
from bot.monitoring.health import Health
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.replies.generations import ActiveGenerations, Generation
from bot.replies.reply_text import Pace
from bot.runtime.clock import SystemClock

_AT_ONCE = 20
_WAITING = 1000
_ROUNDS = 10
_PACE = Pace(first_after=1.5, edit_interval=2.0, line_after=10.0)
_LINE = f"{_WAITING} waiting"


class _OpenRooms:
    """The part of the Matrix port that a generation needs: every room is open."""

    def room(self, room_id: RoomId) -> Room:
        """Return a direct message."""
        return Room(room_id=room_id, direct=True)


class _FullQueue:
    """All slots taken, and a queue of prompts, each in its own room."""

    def __init__(self) -> None:
        clock = SystemClock()
        matrix, store = cast("Matrix", _OpenRooms()), cast("Store", None)
        self._generations = ActiveGenerations(
            matrix=matrix,
            store=store,
            clock=clock,
            pace=_PACE,
            health=Health(clock=clock),
            texts=speak("fr"),
            at_once=_AT_ONCE,
            join_seconds=60.0,
        )
        self._open: list[Generation] = []

    def fill(self) -> None:
        """Add all prompts at once."""
        for _ in range(_AT_ONCE + _WAITING):
            self._add()

    def _add(self) -> None:
        """Add one prompt, as the assistant does."""
        number = len(self._open)
        room_id, person = RoomId(f"!{number}:x"), UserId(f"@{number}:x")
        message = Message(
            event_id=EventId(f"${number}"),
            room_id=room_id,
            sender=person,
            msgtype="m.text",
            body="?",
            timestamp=0,
        )
        prompt = Prompt((message,), Conversation(room_id, None))
        assert self._generations.join(prompt, None) is None
        self._open.append(self._generations.begin(prompt))

    def add_slot(self) -> None:
        """Queue one more slot."""
        conversation = Conversation(RoomId("!another:x"), None)
        self._generations.scheduler.queue(conversation, UserId("@another:x"))

    def last_rank(self) -> int | None:
        """Return the rank of the last prompt."""
        return self._open[-1].slot.rank

    def ranks(self) -> list[int | None]:
        """Return the ranks of all prompts."""
        return [one.slot.rank for one in self._open]

    def end(self) -> None:
        """End one generation, so that the next in the queue gets its slot."""
        holds = self._generations.scheduler.holds
        next(one.slot for one in self._open if holds(one.slot)).drop()


def _spent(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def lanes() -> list[Row]:
    """Measure the queue; there is no reference to compare with."""
    rows = {
        "fill": Row(
            f"{_WAITING + _AT_ONCE} prompts come in one sync response, and take their places"
        ),
        "queue": Row(f"{_LINE}: one more is queued"),
        "place": Row(f"{_LINE}: a place is asked for after a change (all of them are reckoned)"),
        "places": Row(f"{_LINE}: the places of all are asked for after that"),
        "leave": Row(f"{_LINE}: an answer ends, the next one is served"),
    }
    for _ in range(_ROUNDS):
        full = _FullQueue()
        rows["fill"].bot.append(_spent(full.fill))
        rows["place"].bot.append(_spent(full.last_rank))
        rows["places"].bot.append(_spent(full.ranks))
        assert full.last_rank() == _WAITING, "the line is not as long as it should be"
        rows["leave"].bot.append(_spent(full.end))
        rows["queue"].bot.append(_spent(full.add_slot))
    return list(rows.values())
