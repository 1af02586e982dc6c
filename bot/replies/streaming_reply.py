"""One reply on its way into the room: first words early, newest text always, the final whole."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import assert_never

import structlog

from bot.core.chat import (
    Delta,
    FallbackDelta,
    FinishDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from bot.core.draft import Draft
from bot.core.events import EventId, Message, Prompt
from bot.core.markdown import Part
from bot.core.message_split import PART_LIMIT
from bot.core.outgoing import Notice, OutgoingEdit, Reply
from bot.core.readable import is_readable, readable_parts
from bot.errors import CompletionError, FatalError, Forbidden, MatrixError
from bot.i18n.texts import Texts
from bot.monitoring.logs import costing_nothing, log_bug
from bot.replies.delivery import DeliveryClosed, PriorState, ReplyDelivery, Replying, Unmarked
from bot.runtime.retry import pause

log = structlog.get_logger()

_WHOLE = {None, "stop", "eos_token", "stop_sequence"}  # the last two are TGI's
_REMARKS = {"length": "cut by length", "content_filter": "cut by filter"}
# Other words that backends are known to use: what a log may hold of what one says.
_KNOWN = {*_REMARKS, "tool_calls", "function_call", "model_length", "abort", "error"}


class Ending(Enum):
    """How a reply ends before the model is done."""

    STOPPED = "stopped"  # what stands is kept, and marked
    ABANDONED = "abandoned"  # the same; where nothing stands, nothing is said
    SILENT = "silent"  # nothing more is sent: there is nobody or nothing to answer any more


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reply that stands came about; None for what only an earlier process knew.

    Attributes:
        whole: the model has come to its end.
        model: who has answered, by its id.
        first_words: seconds until they could be seen, since the prompt was heard.
        seconds: until all of it could.
        characters: of the model's text.
    """

    whole: bool
    model: str | None = None
    first_words: float | None = None
    seconds: float | None = None
    characters: int | None = None
    usage: Usage | None = None


class StreamingReply:
    """The reply to one prompt: what the model has said, and what stands in the room.

    One send is in flight, never two; how each gets there is its `ReplyDelivery`'s.

    Attributes:
        visible: something of it may be seen.
        found: set when it is known what stands of it.
        ended: set when it ends before the model is done.
        usage: the backend's count, where it has sent one.
        outcome: how it came about, once it stands.
    """

    def __init__(
        self, to: Replying, prompt: Prompt, texts: Texts, before: PriorState = PriorState.NOTHING
    ) -> None:
        """Prepare the reply.

        Args:
            to: what every reply needs.
            prompt: what is asked.
            texts: what the bot itself has to say.
            before: what may stand of it.
        """
        self.visible = before in {PriorState.BEGUN, PriorState.WHOLE}
        self.found = asyncio.Event()
        self.ended = asyncio.Event()
        self.usage: Usage | None = None
        self.outcome: Outcome | None = None
        self._to = to
        self._delivery = ReplyDelivery(to, prompt)
        self._texts = texts
        self._before = before
        self._model = self._shown_line = self._stopped = ""  # the last: why, by a sentence's key
        self._ending: Ending | None = None
        self._left: int | None = None  # messages that the final version lacks, once it is cut
        self._standing: dict[int, Reply] = {}  # what this process put into each part
        self._edits = self._refused = 0  # the latter in a row
        self._above, self._below = tuple[str, ...](), list[str]()
        self._line: Callable[[], str] | None = None
        self._line_wait = to.pace.line_after
        self._line_due = to.clock.monotonic() + self._line_wait
        self._first_words: float | None = None
        self._shown_at: float | None = None
        self._reading: asyncio.Task[None] | None = None
        self._reworded = (
            before is PriorState.WHOLE
        )  # an earlier final version is not what is wanted
        self._stale = False  # what is asked has changed
        self._keeps = False  # what stands, until something of a new one does
        self._over = self._failed = False  # the latter: no whole answer has come
        self._broken: Exception | None = None  # what kept it from being found
        self._changed = asyncio.Event()
        self._draft = self._new_draft()
        self._begun_at = to.clock.monotonic()

    @property
    def event_ids(self) -> Sequence[EventId]:
        """The reply's messages, by part."""
        return self._delivery.event_ids

    @property
    def left_out(self) -> tuple[Message, ...]:
        """The messages of the prompt that a reply which an earlier process has sent leaves out."""
        return self._delivery.left_out

    @property
    def first_words_at(self) -> float | None:
        """When the model's first words could be seen, in the clock's monotonic seconds."""
        return None if self._first_words is None else self._begun_at + self._first_words

    @property
    def prompt(self) -> Prompt:
        """What it answers."""
        return self._delivery.prompt

    @property
    def doubtful(self) -> bool:
        """Tell whether it may stand already and cannot be found, and nobody asks once more."""
        return self._delivery.doubtful and not self._reworded

    def tells_of(self, event_id: EventId) -> bool:
        """Tell whether it may answer the message, or is one of its own messages."""
        delivery = self._delivery
        return event_id in {*self.prompt.event_ids, *delivery.answered, *self.event_ids}

    @property
    def unseen(self) -> bool:
        """Tell whether what is asked may still change, and nothing of it is visible."""
        return not (self._over or self.ended.is_set() or self.visible or self.doubtful)

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the reply while the block makes it, and its final version after that.

        What of it cannot be brought to its end is marked, whatever it was that failed.

        Raises:
            Unmarked: something stands, and could not be marked.
            Exception: what failed, where nothing stands that could be marked.
        """
        delivery = self._delivery
        try:
            await self._open()
        finally:
            self.found.set()
        self.visible = bool(self.event_ids) or self._before is PriorState.WHOLE
        self._keeps = delivery.whole and delivery.worded
        if delivery.silent:
            self.silence()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write())
                yield
                self._over = True
                self._changed.set()
        except ExceptionGroup as group:
            self._over = True
            await self._fall_short(group.exceptions[0])  # the one that ended the other
        finally:
            self._over = True

    async def _open(self) -> None:
        try:
            await self._delivery.open(self._before)
        except FatalError:
            self._over = True  # nothing more can become a part of it
            raise
        except Exception as error:  # noqa: BLE001  # what stands must not look whole even then
            self._broken = error
            self.abandon()
        except BaseException:
            self._over = True
            raise

    async def settled(self) -> bool:
        """Tell whether nobody need be asked: an earlier process knew the final version.

        Or nothing may be said any more.
        """
        if self._ending is not None:
            return self._ending is Ending.SILENT
        with suppress(DeliveryClosed):
            while True:
                changed, prompt = self._reworded, self.prompt
                settled = await self._delivery.settled(changed=changed)
                if self._reworded == changed and self.prompt is prompt:  # else it is asked anew
                    return settled or self.doubtful
        return False

    def speak(self, texts: Texts) -> None:
        """Say in these words what the bot itself has to say."""
        self._texts = texts

    def say(self, line: Callable[[], str]) -> None:
        """Show a line of the bot's own, after a while, as long as there is nothing else to see.

        It is asked what to say whenever that is due: each time after twice as long a wait, as
        every change of it is an event of the room.
        """
        self._line = line
        self._changed.set()

    async def begin(
        self, prompt: Prompt, model: str, above: Sequence[str], below: Sequence[str]
    ) -> None:
        """Be the reply to `prompt`, which may hold more by now.

        Args:
            prompt: what is asked.
            model: who answers, by its id.
            above: lines of the bot's own before the text.
            below: those behind it.
        """
        if self._stale:  # something else is asked by now
            return
        self._delivery.prompt = prompt
        if self._delivery.used or prompt.event_ids != self._delivery.claimed:
            await self._delivery.take_up()  # else a new text would find an old one's ids
        self._model, self._above, self._below = model, tuple(above), list(below)
        self._draft = self._new_draft()

    async def read(self, deltas: AsyncGenerator[Delta, None]) -> None:
        """Take in the deltas until the completion ends or fails, or nobody wants it any more."""
        if self._stale or self._over or self._ending is not None:
            return
        self._reading = asyncio.get_running_loop().create_task(self._take(deltas))
        try:
            await asyncio.wait([self._reading])
        finally:
            self._reading.cancel()
            await asyncio.wait([self._reading])
            await deltas.aclose()
        if not self._reading.cancelled():
            self._reading.result()

    def fail(self, key: str) -> None:
        """End without the model; the sentence named `key` says so below what stands."""
        self._failed = True
        self._below = [*self._below, self._texts(key)]

    def restart(self, prompt: Prompt | None = None) -> bool:
        """Ask for what is asked now, from the start; False where it is too late for that.

        What the model has said so far and nobody has seen is never shown.

        Args:
            prompt: what is asked, where that is not the same messages any more.
        """
        if self._over or self._ending is not None:
            return False
        self._delivery.prompt = prompt or self._delivery.prompt
        self._reworded = self._reworded or prompt is None
        self._stale = True
        self._draft = self._new_draft()
        self._interrupt()
        return True

    def restarted(self) -> bool:
        """Tell whether that has been asked for since the last call."""
        stale, self._stale = self._stale and self._ending is None, False
        return stale

    def stop(self, why: str = "stopped") -> bool:
        """Keep what stands, and mark it; False where it is too late for that.

        Of a text that is far longer than what stands, one more message is shown, and no others.

        Args:
            why: the key of the sentence that marks it.
        """
        if self._ending is not None or (self._over and not self._lacks_several()):
            return False
        direct = self._to.matrix.room(self.prompt.room_id).direct
        self._ending = Ending.STOPPED
        self._stopped = "stopped direct" if direct and why == "stopped" else why
        self._interrupt()
        return True

    def _lacks_several(self) -> bool:
        """Tell whether more than one message of the text does not stand yet."""
        if self._left is not None:
            return self._left > 1
        text = self._draft.text
        cuts = self._draft.cuts(text)
        standing = [one.part for one in self._standing.values()]
        uncut = len(cuts.rest(text).source)
        return uncut > PART_LIMIT or any(part not in standing for part in cuts.full)

    def abandon(self) -> None:
        """Mark what an earlier process has left in the room: nobody asks for it any more."""
        if self._ending is None:
            self._ending = Ending.ABANDONED
            self._interrupt()

    def silence(self) -> None:
        """Send nothing more but what is on its way."""
        self._ending = Ending.SILENT
        self._delivery.silent = True
        self._interrupt()

    def _interrupt(self) -> None:
        if self._ending is not None:
            self.ended.set()
        if self._reading is not None:
            self._reading.cancel()
        self._changed.set()

    def _new_draft(self) -> Draft:
        pace = self._to.pace
        draft = Draft(
            first_after=pace.first_after, edit_interval=pace.edit_interval, least=pace.least
        )
        if self._shown_at is not None:
            draft.postpone(self._shown_at + pace.edit_interval)
        return draft

    async def _take(self, deltas: AsyncGenerator[Delta, None]) -> None:
        """Take in the deltas until the completion ends or fails."""
        try:
            reason = await self._add(deltas)
        except CompletionError as error:
            self._failed = True
            log.warning("completion failed", kind=type(error).__name__, reason=str(error))
            self._below.append(self._texts(error.key, **error.values))
        except Exception as error:  # noqa: BLE001  # even then, what stands must not look whole
            log_bug(error)
            self._failed = True
            self._below.append(self._texts("bug"))
        else:
            self._remark(reason)

    async def _add(self, deltas: AsyncGenerator[Delta, None]) -> str | None:
        """Add the deltas to what is there; return the finish reason, None where none has come."""
        reason: str | None = None
        usage: Usage | None = None
        try:
            async for delta in deltas:
                match delta:
                    case TextDelta():
                        self._draft.add(delta.text, self._to.clock.monotonic())
                        self._changed.set()
                    case ThinkingDelta() | ToolCallDelta():
                        pass  # not shown
                    case FinishDelta():
                        reason = delta.reason
                    case UsageDelta():
                        usage = delta.usage
                    case FallbackDelta():
                        self._fall_back(delta)
                    case _:
                        assert_never(delta)
        finally:
            self._count(usage)  # whatever becomes of it, it was spent
        return reason

    def _count(self, usage: Usage | None) -> None:
        if usage is not None:
            self.usage = usage
            with costing_nothing():
                self._to.health.spent(self._model, usage.prompt_tokens, usage.completion_tokens)

    def _remark(self, reason: str | None) -> None:
        """Say below the text what a completion that has ended so lacks."""
        if reason not in _WHOLE:  # a word that no specification has must not look whole
            log.info("completion cut", finish_reason=reason if reason in _KNOWN else "unknown")
            self._below.append(self._texts(_REMARKS.get(reason or "", "model truncated")))
        if not is_readable(self._draft.text):
            self._failed = True
            unseen = "model unreadable" if self._draft.text.strip() else "model empty"
            self._below.append(self._texts(unseen))

    def _fall_back(self, to: FallbackDelta) -> None:
        """Be another model's answer from here on, and say so in the end."""
        self._model, label = to.card.id, to.card.label
        self._below.append(self._texts("fallback", label=label, missing=to.instead_of.label))

    async def _write(self) -> None:
        """Show the newest text whenever it is due, and the whole at the end."""
        with suppress(DeliveryClosed):
            while await self._due():
                await self._show()
            if self._ending is not Ending.SILENT:
                await self._finish()

    async def _due(self) -> bool:
        """Wait until something is due to be shown; False when the reply is over."""
        while not self._over:
            due = [self._draft.due_at(), None if self._draft.is_shown else self._line_at()]
            due_at = min((one for one in due if one is not None), default=None)
            wait = None
            if due_at is not None and self._ending is None:
                wait = due_at - self._to.clock.monotonic()
                if wait <= 0:
                    return True
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):  # wait_for of 3.11 may swallow a cancellation
                    await self._changed.wait()
        return False

    def _line_at(self) -> float | None:
        """Return when to show the line, None where it stands, or something better does."""
        if self._line is None or (self.event_ids and not self._shown_line):
            return None
        return self._line_due

    def _put_line_off(self) -> None:
        self._line_wait *= 2
        self._line_due = self._to.clock.monotonic() + self._line_wait

    async def _show(self) -> None:
        """Put what stands now into the room; a refused edit gives way to a newer one."""
        draft, claim = self._draft, self._delivery.claim  # they may change meanwhile
        now = self._to.clock.monotonic
        text = draft.version(now())
        line_at = None if text else self._line_at()
        if not text and (line_at is None or line_at > now()):
            return  # there are no first words yet
        line = "" if text or self._line is None else self._line()
        if not text and line == self._shown_line:
            self._put_line_off()
            return
        cut, rest = await self._parts(text)
        *full, growing = readable_parts([*cut, rest]) or [Part("")]
        if not await self._put_full(full, draft, claim):
            return
        reply = replace(self._reply(len(full), growing), unfinished=True)
        if not text:
            reply = replace(self._reply(0, Part("")), above=(line,))
        try:
            await self._put(len(full), reply, f"edit:{self._edits}", claim)
        except MatrixError as error:
            wait = pause(error, self._refused)
            self._refused += 1
            log.info("edit refused", reason=str(error), retry_in=round(wait, 1))
            draft.postpone(now() + wait)
            self._line_due = now() + wait
        else:
            self._refused, self._shown_at = 0, now()
            draft.shown(text, self._shown_at)
            self._shown_line = line
            self._put_line_off()
        self._edits += 1

    async def _put_full(self, full: Sequence[Part], draft: Draft, claim: int) -> bool:
        """Put the parts that grow no more into the room; False where nobody waits for the rest."""
        for number, part in enumerate(full):
            if self._ending is None and self._draft is draft:
                await self._put(number, self._reply(number, part), "final", claim)
        return self._ending is None and self._draft is draft

    async def _finish(self) -> None:
        """Bring the reply to its final version."""
        self.visible = True  # what is sent from here on may be taken, whatever is answered
        delivery = self._delivery
        if self._broken is not None:
            raise self._broken
        if await delivery.finish_settled(changed=self._reworded):
            log.info("reply stands", parts=len(self.event_ids), events=delivery.events)
            self.outcome = Outcome(whole=True) if self.event_ids else None
        elif self._ending is Ending.ABANDONED:
            await self._mark(self._texts("model truncated"))
        elif self.doubtful:
            await self._say_instead(self._texts("perhaps answered"))
        else:
            await self._complete()

    async def _parts(self, text: str) -> tuple[Sequence[Part], Part]:
        """Return the full parts of a version, and the one behind them."""
        cuts = self._draft.cuts(text)
        for _ in cuts.more(text):
            await asyncio.sleep(0)  # a long text has many
        return cuts.full, cuts.rest(text)

    async def _complete(self) -> None:
        delivery, text, ending = self._delivery, self._draft.text, self._ending
        stopped = [self._texts(self._stopped)] if ending is Ending.STOPPED else []
        if stopped and not is_readable(text):  # what stands stays, though it was to be replaced
            text = "".join(one.part.source for one in self._one_text().values())
        added = (*self._below, *stopped)
        nothing_stands = delivery.fresh and not self.event_ids
        if not is_readable(text):
            text, added = "", added or (self._texts("model empty"),)
            if self._keeps or nothing_stands:
                await self._say_instead(*self._above, *added)
                return
            if stopped and await self._mark(*added):
                return
        final = dict(enumerate(await self._final(text, added)))
        missing = {key: one for key, one in final.items() if not self._is_there(key, one)}
        if self._ending is not ending or not await self._send(missing):
            await self._complete()  # it was stopped meanwhile
            return
        await delivery.verify(final.keys() - missing.keys())
        with costing_nothing():
            self._tell("".join(one.part.source for one in final.values()))

    async def _send(self, final: Mapping[int, Reply]) -> bool:
        """Send messages of the final version; False where a stop came before the last of them."""
        ending = self._ending
        left = {number for number, one in final.items() if one.part.source}  # voids always go out

        def goes_on(number: int) -> bool:
            self._stand(number, final[number])
            left.discard(number)
            self._left = len(left)
            return self._ending is ending or not left

        self._left = len(left)
        await self._delivery.send_final(final, goes_on)
        return not left

    async def _say_instead(self, *sentences: str) -> None:
        notice = Notice("\n\n".join(sentences), self.prompt, unanswered=True)
        await self._delivery.say_instead(notice)

    async def _fall_short(self, error: Exception) -> None:
        """Mark what stands as incomplete where no more of it can be had."""
        if isinstance(error, FatalError):
            raise error
        if isinstance(error, MatrixError):
            log.warning("reply refused", reason=str(error))
        else:
            log_bug(error)
        try:
            marked = not self._keeps and await self._mark(
                *self._below, self._texts("model truncated")
            )
        except FatalError:
            raise
        except (DeliveryClosed, Forbidden):
            marked = False
        except Exception as another:  # what keeps it from being marked now may pass
            if not isinstance(another, MatrixError):
                log_bug(another)
            raise (Unmarked() if self.event_ids else error) from another
        if not marked:
            raise error

    async def _mark(self, *added: str) -> bool:
        """End what stands with these lines, whoever has written it; False where nothing stands.

        What an earlier process has written is taken from the room, where it is plain text.
        """
        standing = list(self._one_text().values())
        if not any(one.part.source for one in standing):
            found = await self._delivery.standing()
            if found and found[-1].final:
                return True
            standing = [self._found(key, one) for key, one in enumerate(found)] or standing
        if not standing:
            return False
        number, last = len(standing) - 1, standing[-1]
        marked = [replace(self._reply(number, last.part, added), final=True)]
        marked += [self._void()] * (len(self.event_ids) - len(standing))
        await self._delivery.send_final(
            {key: replace(one, claim=last.claim) for key, one in enumerate(marked, number)}
        )
        return True

    def _found(self, number: int, message: Message) -> Reply:
        opening = f"({number + 1})\n\n" if number else ""
        return replace(self._reply(number, Part(message.body, opening)), claim=message.claim)

    def _one_text(self) -> dict[int, Reply]:
        """Return what this process has put into the first parts: behind them may be older text."""
        found = dict[int, Reply]()
        for number, one in sorted(self._standing.items()):
            if number != len(found) or one.claim != self._standing[0].claim:
                break
            found[number] = one
        return found

    async def _final(self, text: str, added: tuple[str, ...]) -> list[Reply]:
        """Return the messages of the final version: where it was stopped, one more than stand."""
        cut, rest = await self._parts(text)
        *full, last = readable_parts([*cut, rest]) or [Part("")]
        replies = [self._reply(number, part) for number, part in enumerate(full)]
        if self._ending is Ending.STOPPED:
            for number, reply in enumerate(replies):
                stands = self._standing.get(number)
                if stands is None or stands.part != reply.part:
                    full, last = full[:number], full[number]
                    break
        replies = replies[: len(full)]
        replies.append(replace(self._reply(len(full), last, added), final=True))
        behind = len(self.event_ids) - len(replies)  # of a longer text of before
        return replies + [self._void()] * behind

    def _void(self) -> Reply:
        """Return what takes the place of a part that the text does not have any more."""
        return replace(self._reply(-1, Part(""), (self._texts("void"),)), final=True)

    def _tell(self, text: str) -> None:
        """Tell the log and who watches how the reply went."""
        usage, health, events = self.usage, self._to.health, self._delivery.events
        log.info(
            "reply sent",
            parts=len(self.event_ids),
            edits=self._edits,
            events=events,
            characters=len(text),
            tokens=usage.completion_tokens if usage else None,
        )
        seconds = self._to.clock.monotonic() - self._begun_at
        health.replied(seconds, self._edits, events)
        whole = self._ending is None and not self._failed
        self.outcome = Outcome(
            whole, self._model, self._first_words, seconds, len(text), self.usage
        )

    def _reply(self, number: int, part: Part, added: tuple[str, ...] = ()) -> Reply:
        above = self._above if number == 0 else ()
        delivery = self._delivery
        return Reply(delivery.prompt, part, self._model, added, above, claim=delivery.claim)

    async def _put(self, number: int, reply: Reply, stage: str, claim: int) -> None:
        """Bring part `number` to `reply`: post it, edit it, or leave it where it is that already.

        Where an earlier process may have posted it, what stands is unknown, and an edit must
        follow.
        """
        delivery = self._delivery
        if self._is_there(number, reply):
            return
        if number >= len(self.event_ids):
            self.visible = True
            await delivery.post(number, reply)
            if not delivery.fresh:
                return
        else:
            edit = OutgoingEdit(self.event_ids[number], reply)
            insisting = not stage.startswith("edit")
            await delivery.send(edit, stage, number, claim, insisting=insisting)
        self._stand(number, reply)

    def _is_there(self, number: int, reply: Reply) -> bool:
        stands = self._standing.get(number)
        return stands is not None and (stands, stands.claim) == (reply, reply.claim)

    def _stand(self, number: int, reply: Reply) -> None:
        if reply.part.source and not any(one.part.source for one in self._standing.values()):
            self._first_words = self._to.clock.monotonic() - self._begun_at
            self._to.health.first_words(self._first_words)
        self._standing[number] = reply
        self._keeps = False
