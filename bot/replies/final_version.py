"""The final version of a reply: the whole text, or a mark that says what it lacks."""

from collections.abc import Mapping
from dataclasses import replace

import structlog

from bot.core.events import Message
from bot.core.markdown import Part
from bot.core.message_split import PART_LIMIT
from bot.core.outgoing import Notice, Reply
from bot.core.readable import is_readable, readable_parts
from bot.core.reply_state import Found, Reason, reason_of
from bot.errors import FatalError, Forbidden, MatrixError
from bot.monitoring.logs import log_bug
from bot.replies.delivery import DeliveryClosed, ReplyDelivery
from bot.replies.lifecycle import ReplyLifecycle
from bot.replies.outbox import Outbox
from bot.replies.reply_messages import ReplyMessages
from bot.replies.reply_text import ReplyText

_STOPS = {Reason.STOPPED, Reason.STOPPED_DIRECT, Reason.THREAD_GONE}

log = structlog.get_logger()


class Unmarked(Exception):  # ends one answer, and is caught by whoever asked for it
    """A part of a reply stands in the room, and could not be marked as incomplete."""


class FinalVersion:
    """Brings the messages of a reply to their final version."""

    def __init__(
        self,
        *,
        lifecycle: ReplyLifecycle,
        text: ReplyText,
        delivery: ReplyDelivery,
        messages: ReplyMessages,
        outbox: Outbox,
    ) -> None:
        self._lifecycle = lifecycle
        self._text = text
        self._delivery = delivery
        self._messages = messages
        self._outbox = outbox
        self._missing: int | None = None  # messages not sent yet, once the final version is cut

    @property
    def lacks_several(self) -> bool:
        """Whether more than one message of the text does not stand yet."""
        if self._missing is not None:
            return self._missing > 1
        text = self._text.draft.text
        cuts = self._text.draft.cuts(text)
        standing = self._messages.parts
        uncut = len(cuts.rest(text).source)
        return uncut > PART_LIMIT or any(part not in standing for part in cuts.full)

    async def complete(self) -> str | None:
        """Send the text with the bot's lines around it; begin anew if it is stopped meanwhile.

        Returns:
            The text that stands, None if no model's words were to be sent.
        """
        state = self._lifecycle.state
        text, added, is_stopped = self._draft_text()
        if not is_readable(text):
            text, added = "", added or (self._text.texts("model empty"),)
            nothing_stands = self._delivery.is_first_claim and not self._delivery.event_ids
            if self._keeps_prior or nothing_stands:
                await self.send_notice(*self._text.above, *added)
                return None
            if is_stopped and await self.mark(*added):
                return None
        final = dict(enumerate(await self._versions(text, added)))
        missing = {key: one for key, one in final.items() if not self._messages.has(key, one)}
        if self._lifecycle.state != state or not await self._send(missing):
            return await self.complete()  # it was stopped meanwhile
        await self._outbox.verify_edits(final.keys() - missing.keys())
        return "".join(one.part.source for one in final.values())

    def _draft_text(self) -> tuple[str, tuple[str, ...], bool]:
        """Return the text, the lines behind it, and whether the reply was stopped.

        If it was stopped before the first words, what stands is kept, although it was to be
        replaced.
        """
        text, added = self._text.draft.text, tuple(self._text.below)
        reason = reason_of(self._lifecycle.state)
        if reason not in _STOPS:
            return text, added, False
        if not is_readable(text):
            text = "".join(one.part.source for one in self._messages.one_text())
        return text, (*added, self._text.texts(reason.value)), True

    @property
    def _keeps_prior(self) -> bool:
        """Whether the complete reply of an earlier process stands, and is to stay."""
        return self._lifecycle.prior.found is Found.WHOLE and not self._messages.parts

    async def _versions(self, text: str, added: tuple[str, ...]) -> list[Reply]:
        """Return the messages of the final version: of a stopped one, one more than stand."""
        cut, rest = await self._text.parts(text)
        *full, last = readable_parts([*cut, rest]) or [Part("")]
        versions = [self._messages.version(number, part) for number, part in enumerate(full)]
        if reason_of(self._lifecycle.state) in _STOPS:
            for number, part in enumerate(full):
                if not self._messages.has_part(number, part):
                    full, last = full[:number], part
                    break
        versions = versions[: len(full)]
        versions.append(replace(self._messages.version(len(full), last, added), final=True))
        surplus = len(self._delivery.event_ids) - len(versions)  # of a longer text of before
        return versions + [self._messages.void()] * surplus

    async def _send(self, final: Mapping[int, Reply]) -> bool:
        """Send messages of the final version; return False if a stop came before the last one."""
        state = self._lifecycle.state
        missing = {number for number, one in final.items() if one.part.source}  # voids always go

        def goes_on(number: int) -> bool:
            self._messages.note(number, final[number])
            missing.discard(number)
            self._missing = len(missing)
            return self._lifecycle.state == state or not missing

        self._missing = len(missing)
        await self._outbox.send_final(final, goes_on)
        return not missing

    async def send_notice(self, *sentences: str) -> None:
        """Send sentences of the bot in place of a reply."""
        notice = Notice(text="\n\n".join(sentences), to=self._delivery.prompt, unanswered=True)
        await self._outbox.send_notice(notice, self._lifecycle.prior)

    async def fall_short(self, error: Exception) -> None:
        """Mark what stands as incomplete, as no more of the reply can be sent.

        Raises:
            Unmarked: something stands, and could not be marked.
            Exception: `error`, where nothing stands that could be marked.
        """
        if isinstance(error, FatalError):
            raise error
        if isinstance(error, MatrixError):
            log.warning("reply refused", reason=str(error))
        else:
            log_bug(error)
        truncated = self._text.texts("model truncated")
        try:
            marked = not self._keeps_prior and await self.mark(*self._text.below, truncated)
        except FatalError:
            raise
        except (DeliveryClosed, Forbidden):
            marked = False
        except Exception as another:  # what keeps it from being marked now may pass
            if not isinstance(another, MatrixError):
                log_bug(another)
            raise (Unmarked() if self._delivery.event_ids else error) from another
        if not marked:
            raise error

    async def mark(self, *added: str) -> bool:
        """End what stands with these lines, whichever process has sent it.

        The text of an earlier process is taken from the room, where it is plain text.

        Returns:
            False if nothing stands.
        """
        standing = self._messages.one_text()
        if not any(one.part.source for one in standing):
            found = await self._delivery.read_text()
            if found and found[-1].final:
                return True
            standing = [self._prior_version(*one) for one in enumerate(found)] or standing
        if not standing:
            return False
        number, last = len(standing) - 1, standing[-1]
        marked = [replace(self._messages.version(number, last.part, added), final=True)]
        marked += [self._messages.void()] * (len(self._delivery.event_ids) - len(standing))
        await self._outbox.send_final(
            {key: replace(one, claim=last.claim) for key, one in enumerate(marked, number)}
        )
        return True

    def _prior_version(self, number: int, message: Message) -> Reply:
        opening = f"({number + 1})\n\n" if number else ""
        part = Part(message.body, opening)
        return replace(self._messages.version(number, part), claim=message.claim)
