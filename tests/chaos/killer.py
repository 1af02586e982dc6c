"""The killer: ends the bot again and again while it has work, and restarts it at once."""

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

_ENDS: Final[dict[End, int]] = {  # weights
    "soon": 45,
    "while it starts": 15,
    "after a lost answer": 15,
    "failpoint": 25,
}
_COLD = 3  # starts per run without the fork server, which import everything
_SOON = 6.0  # largest delay of a kill after the start, in seconds
_SHORTEST_LIFE = 0.8  # largest delay of a kill during the start, in seconds
_LINES_SHOWN = 5
_PATIENCE = 15.0  # seconds to wait for a failpoint to end the bot
# The others never apply here: joining and leaving rooms, choices, redactions, repairs.
_WORK: Final = ("admit", "claim", "sent", "freeze", "finish", "first", "edit", "final")
_REACHED: Final = tuple(site for site in SITES if site.partition(".")[0] in _WORK)


class EndedByItself(Exception):
    """The bot ended although nobody killed it; the message has the end of its log."""


@dataclass(slots=True, kw_only=True)
class Life:
    """One process of the bot; times are `time.monotonic()`.

    Attributes:
        begun: time of its start.
        at: time of its start, by the clock of its log.
        cold: whether it was started without the fork server.
        failpoint: name of the failpoint that was to end it; "" for none.
        interrupted: the prompts without their reply when the process before it ended.
        imported: seconds from its start to the end of the imports; None if it ended before.
        started: seconds from its start until it was logged in.
        ended: time of its end.
        how: description of its end.
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
        """Seconds until an interrupted reply went on in the room; None for never.

        Versions that come before the process is logged in are from the process before it.
        """
        if self.started is None:
            return None
        all_ = (at - self.at.timestamp() for prompt in self.interrupted for at in prompt.shown)
        shown = [after for after in all_ if self.started < after < self.ended - self.begun]
        return min(shown, default=None)


class Killer:
    """Kills one bot at random times.

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
        """Kill it that many times; the last process stays alive."""
        ends: list[End] = ["soon", *self._dice.choices([*_ENDS], [*_ENDS.values()], k=kills - 1)]
        cold = set(self._dice.sample(range(kills), min(_COLD, kills)))
        following: list[End | None] = [*ends[1:], None]
        for number, (end, then) in enumerate(zip(ends, following, strict=True)):
            how = await self._end(end)
            self.finish(how)
            await self._begin(then, cold=number in cold)
        await self._bot.started()

    def finish(self, how: str = "") -> None:
        """Record the end of the last process."""
        life = self.lives[-1]
        life.imported, life.started = self._seconds_to("imported"), self._seconds_to("started")
        life.how = how

    async def _begin(self, end: End | None, *, cold: bool = False) -> None:
        """Start a process that is prepared for that kind of end."""
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
        """End the process while it has work, or wait for its end; return a description."""
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
        """Kill the process; if it has ended before, that must have been a kill."""
        if not (self._bot.runs or self.lives[-1].failpoint):
            log = self._bot.log.read_text().splitlines()
            raise EndedByItself("\n".join([f"in life {len(self.lives)}:", *log[-_LINES_SHOWN:]]))
        self.lives[-1].ended = time.monotonic()
        await self._bot.kill()

    def _seconds_to(self, event: str) -> float | None:
        told = self._bot.told(event)
        return None if told is None else (told - self.lives[-1].at).total_seconds()
