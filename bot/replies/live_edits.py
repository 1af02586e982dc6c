"""The edits of a reply while its text grows: first words early, then the newest text."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from bot.core.draft import Draft
from bot.core.markdown import Part
from bot.core.outgoing import Reply
from bot.core.readable import readable_parts
from bot.core.reply_state import Closed, Finishing, ends_early
from bot.errors import MatrixError
from bot.ports.clock import Clock
from bot.replies.delivery import ReplyDelivery
from bot.replies.lifecycle import ReplyLifecycle
from bot.replies.reply_messages import ReplyMessages
from bot.replies.reply_text import Pace, ReplyText
from bot.runtime.retry import pause

log = structlog.get_logger()


class LiveEdits:
    """Shows the newest version of a text whenever one is due; one send is in flight, never two.

    Before the first words a line of the bot may tell the person who waits what is going on. As
    every change of it is an event of the room, each wait for a newer line is twice as long.

    Attributes:
        count: how many versions were sent, or tried to be.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        pace: Pace,
        lifecycle: ReplyLifecycle,
        text: ReplyText,
        delivery: ReplyDelivery,
        messages: ReplyMessages,
    ) -> None:
        self.count = 0
        self._clock = clock
        self._lifecycle = lifecycle
        self._text = text
        self._delivery = delivery
        self._messages = messages
        self._refused = 0  # edits in a row
        self._line: Callable[[], str] | None = None
        self._shown_line = ""
        self._line_wait = pace.line_after
        self._line_due = clock.monotonic() + self._line_wait
        self._changed = asyncio.Event()

    def say(self, line: Callable[[], str]) -> None:
        """Show the line that `line` returns, from when one is due until there are first words."""
        self._line = line
        self.look()

    def look(self) -> None:
        """Look anew what is due: the text or the state has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Show each version that is due, until no more text comes."""
        while await self._wait():
            await self._show()

    async def _wait(self) -> bool:
        """Wait until a version is due; return False once no more text comes."""
        while not isinstance(self._lifecycle.state, Finishing | Closed):
            draft = self._text.draft
            due = [draft.due_at(), None if draft.is_shown else self._line_at()]
            due_at = min((one for one in due if one is not None), default=None)
            wait = None
            if due_at is not None and not ends_early(self._lifecycle.state):
                wait = due_at - self._clock.monotonic()
                if wait <= 0:
                    return True
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):  # wait_for of 3.11 may swallow a cancellation
                    await self._changed.wait()
        return False

    def _line_at(self) -> float | None:
        """Return when a line is due, None if there is none, or something better stands."""
        if self._line is None or (self._delivery.event_ids and not self._shown_line):
            return None
        return self._line_due

    def _put_line_off(self) -> None:
        self._line_wait *= 2
        self._line_due = self._clock.monotonic() + self._line_wait

    async def _show(self) -> None:
        """Bring the room to the present version."""
        draft, claim = self._text.draft, self._delivery.claim  # they may change meanwhile
        now = self._clock.monotonic()
        version = draft.version(now)
        line_at = None if version else self._line_at()
        if not version and (line_at is None or line_at > now):
            return  # there are no first words yet
        line = "" if version or self._line is None else self._line()
        if not version and line == self._shown_line:
            self._put_line_off()
            return
        cut, rest = await self._text.parts(version)
        *full, growing = readable_parts([*cut, rest]) or [Part("")]
        if not await self._put_full(full, draft, claim):
            return
        reply = replace(self._messages.version(len(full), growing), unfinished=True)
        if not version:
            reply = replace(self._messages.version(0, Part("")), above=(line,))
        if await self._put(len(full), reply, draft, claim):
            self._text.note_shown(draft, version)
            self._shown_line = line
            self._put_line_off()

    async def _put(self, number: int, reply: Reply, draft: Draft, claim: int) -> bool:
        """Put a growing message into the room; return False if the edit was refused for now.

        It is not tried again as it is: a newer version takes its place.
        """
        try:
            await self._messages.put(number, reply, f"edit:{self.count}", claim)
        except MatrixError as error:
            wait = pause(error, self._refused)
            self._refused += 1
            log.info("edit refused", reason=str(error), retry_in=round(wait, 1))
            until = self._clock.monotonic() + wait
            draft.postpone(until)
            self._line_due = until
            accepted = False
        else:
            self._refused = 0
            accepted = True
        self.count += 1
        return accepted

    async def _put_full(self, full: Sequence[Part], draft: Draft, claim: int) -> bool:
        """Put the parts that grow no more into the room.

        Returns:
            False if the rest is not wanted any more.
        """
        for number, part in enumerate(full):
            if self._is_wanted(draft):
                await self._messages.put(
                    number, self._messages.version(number, part), "final", claim
                )
        return self._is_wanted(draft)

    def _is_wanted(self, draft: Draft) -> bool:
        return self._text.draft is draft and not ends_early(self._lifecycle.state)
