"""Ends the bot again and again while it has something to do, and starts it at once."""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from bot.runtime.failpoints import SITES, VARIABLE
from tests.chaos.traffic import ChaosPrompt, Traffic
from tests.harness.bot import Bot, launch_cold
from tests.harness.expectations import until
from tests.harness.fault_proxy import FaultProxy
from tests.harness.fork import ForkServer

End = Literal["soon", "while it starts", "after a lost answer", "failpoint"]

_ENDS: Final[dict[End, int]] = {  # how likely
    "soon": 45,
    "while it starts": 15,
    "after a lost answer": 15,
    "failpoint": 25,
}
_COLD = 3  # starts of each run that have all to import
_SOON = 6.0  # seconds after the start, at the most
_SHORTEST_LIFE = 0.8  # seconds, at the most, where it ends while it starts
_LINES_SHOWN = 5
_PATIENCE = 15.0  # seconds until what should have ended it has
# Others are for what nobody does here: rooms joined and left, choices, redactions, repairs.
_WORK: Final = ("admit", "claim", "sent", "freeze", "finish", "first", "edit", "final")
_REACHED: Final = tuple(site for site in SITES if site.partition(".")[0] in _WORK)


class EndedByItself(Exception):
    """Nobody has killed the bot; the message holds the end of its log."""


@dataclass(slots=True, kw_only=True)
class Life:
    """One process of the bot; times are `time.monotonic()`.

    Attributes:
        begun: when it was started.
        at: the same, on the clock of its log.
        cold: it had all to import.
        failpoint: where it was to end by itself, "" for nowhere.
        interrupted: what was not answered when the process before it ended.
        imported: seconds from its start until the imports were done; None where it ended before.
        started: seconds until it was logged in.
        ended: when it was dead.
        how: in words.
    """

    begun: float
    at: datetime
    cold: bool
    failpoint: str
    interrupted: Sequence[ChaosPrompt]
    imported: float | None = None
    started: float | None = None
    ended: float = math.inf
    how: str = ""

    @property
    def progress(self) -> float | None:
        """Seconds until something new of an interrupted reply was in the room; None for never.

        What comes before the process is logged in was sent by the one before it.
        """
        if self.started is None:
            return None
        all_ = (at - self.at.timestamp() for prompt in self.interrupted for at in prompt.shown)
        shown = [after for after in all_ if self.started < after < self.ended - self.begun]
        return min(shown, default=None)


class Killer:
    """Kills one bot, as the dice say.

    Attributes:
        lives: the bot's processes, oldest first; the last one is not killed.
    """

    def __init__(
        self,
        bot: Bot,
        server: ForkServer,
        between: FaultProxy,
        traffic: Traffic,
        dice: random.Random,
    ) -> None:
        self.lives: list[Life] = []
        self._bot = bot
        self._server = server
        self._between = between
        self._traffic = traffic
        self._dice = dice

    async def start(self) -> None:
        """Start the bot for the first time."""
        await self._begin(None)
        await self._bot.started()

    async def run(self, kills: int) -> None:
        """Kill it so often, and let the last process live."""
        ends: list[End] = ["soon", *self._dice.choices([*_ENDS], [*_ENDS.values()], k=kills - 1)]
        cold = set(self._dice.sample(range(kills), min(_COLD, kills)))
        following: list[End | None] = [*ends[1:], None]
        for number, (end, then) in enumerate(zip(ends, following, strict=True)):
            how = await self._end(end)
            self.finish(how)
            await self._begin(then, cold=number in cold)
        await self._bot.started()

    def finish(self, how: str = "") -> None:
        """Note what is known of the last process."""
        life = self.lives[-1]
        life.imported, life.started = self._seconds_to("imported"), self._seconds_to("started")
        life.how = how

    async def _begin(self, end: End | None, *, cold: bool = False) -> None:
        """Start a process that can end so."""
        failpoint = ""
        if end == "failpoint":
            failpoint = f"{self._dice.choice(_REACHED)}:kill@{self._dice.choice((1, 1, 2))}"
        self._bot.launch = launch_cold if cold else self._server.launch
        now, at = time.monotonic(), datetime.now(UTC)
        interrupted = self._traffic.outstanding
        life = Life(begun=now, at=at, cold=cold, failpoint=failpoint, interrupted=interrupted)
        self.lives.append(life)
        await self._bot.begin(**({VARIABLE: failpoint} if failpoint else {}))

    async def _end(self, end: End) -> str:
        """End the process while there is work, or see it end; return how, in words."""
        match end:
            case "failpoint":
                return await self._await_failpoint()
            case "while it starts":
                await asyncio.sleep(self._dice.uniform(0, _SHORTEST_LIFE))
            case "soon":
                await self._bot.started()
                await asyncio.sleep(self._dice.uniform(0, _SOON))
            case "after a lost answer":
                await self._bot.started()
                with self._between.rule("PUT", "/send/", "cut", times=1) as lost:
                    await lost.met()
        await self._traffic.asked.wait()
        await self._kill()
        return end

    async def _await_failpoint(self) -> str:
        failpoint = self.lives[-1].failpoint
        with suppress(TimeoutError):
            await until(lambda: not self._bot.runs, within=_PATIENCE)
        reached = not self._bot.runs
        await self._kill()
        return failpoint if reached else f"{failpoint} not reached"

    async def _kill(self) -> None:
        """Kill what is alive; nothing but a kill may have ended the rest."""
        if not (self._bot.runs or self.lives[-1].failpoint):
            log = self._bot.log.read_text().splitlines()
            raise EndedByItself("\n".join([f"in life {len(self.lives)}:", *log[-_LINES_SHOWN:]]))
        self.lives[-1].ended = time.monotonic()
        await self._bot.kill()

    def _seconds_to(self, event: str) -> float | None:
        told = self._bot.told(event)
        return None if told is None else (told - self.lives[-1].at).total_seconds()
