"""Search of the room for what an earlier process has sent of a reply.

The ledger may be older than the room: a process may have ended before it recorded a message, or
the ledger may come from a backup.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from bot.core.events import EventId, Message, Prompt, RoomId
from bot.core.outgoing import SentReply, SentSince
from bot.core.reply_state import Found
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.runtime.retry import retry_until_accepted

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PriorMessages:
    """The messages of the bot that are about a prompt.

    Attributes:
        reply: the messages of the reply, oldest first.
        notices: ids of the notices beside the reply.
        joined_to: the first messages of other prompts whose reply answers this one as well.
    """

    reply: tuple[SentReply, ...]
    notices: tuple[EventId, ...]
    joined_to: tuple[EventId, ...]

    @property
    def event_ids(self) -> Sequence[EventId]:
        """The ids of the reply's messages."""
        return [one.event_id for one in self.reply]

    @property
    def answered(self) -> tuple[EventId, ...]:
        """The messages of the prompt that the reply answers."""
        return self.reply[-1].answers if self.reply else ()

    @property
    def found(self) -> Found:
        """How far the reply is."""
        if not self.reply:
            return Found.NOTHING
        first, last = self.reply[0], self.reply[-1]
        if not (last.final and first.claim == last.claim):
            return Found.PART
        has_words = any(one.body.strip() for one in self.reply)
        return Found.WHOLE if has_words else Found.WORDLESS


def match_prior_messages(since: SentSince, prompt: EventId) -> PriorMessages:
    """Sort what the bot has sent since a prompt.

    Args:
        since: what was sent since.
        prompt: id of the prompt's first message.
    """
    reply = tuple(one for one in since.about if one.answers[:1] == (prompt,))
    notices = tuple(one.event_id for one in since.about if not one.answers)
    others = [one.answers[0] for one in since.about if prompt in one.answers[1:]]
    return PriorMessages(reply, notices, () if reply else tuple(dict.fromkeys(others)))


async def is_any_there(
    matrix: Matrix, clock: Clock, room_id: RoomId, event_ids: Sequence[EventId]
) -> bool:
    """Return whether any of the events was not redacted."""
    for event_id in event_ids:
        fetch = partial(matrix.fetch, room_id, event_id)
        if await retry_until_accepted(clock, fetch) is not None:
            return True
    return False


async def sent_since(matrix: Matrix, clock: Clock, prompt: Prompt) -> SentSince:
    """Read from the room what the bot has sent since the prompt."""
    return await retry_until_accepted(
        clock, lambda: matrix.own_since(prompt.room_id, prompt.event_ids)
    )


async def may_be_hidden(store: Store, prompt: Prompt, since: SentSince) -> bool:
    """Return whether a reply may stand that was not found: no prompt may be answered twice."""
    hidden = await hidden_messages(store, prompt, since)
    if hidden or not since.whole:
        log.error("reply perhaps sent", unreadable=hidden, all_read=since.whole)
    return bool(hidden) or not since.whole


async def hidden_messages(store: Store, prompt: Prompt, since: SentSince) -> list[EventId]:
    """Return the bot's messages that cannot be read and may be about the prompt.

    Messages that the ledger knows as the reply to another prompt are left out.
    """
    return [
        event_id
        for event_id in since.unreadable_for(prompt)
        if await store.exchange(prompt.room_id, event_id) is None
    ]


async def read_text(
    matrix: Matrix, clock: Clock, room_id: RoomId, event_ids: Sequence[EventId]
) -> list[Message]:
    """Return the messages of a reply as the room shows them, as far as they are one text.

    Args:
        matrix: the port that fetches them.
        clock: measures the waits between tries.
        room_id: room of the reply.
        event_ids: the reply's messages, by part.
    """
    found = list[Message]()
    for event_id in event_ids:
        one = await retry_until_accepted(clock, partial(matrix.fetch, room_id, event_id))
        if not (isinstance(one, Message) and one.answers and one.body.strip()):
            break  # a notice stands there, or only lines of the bot
        if found and one.claim != found[0].claim:
            break  # a part of an earlier text stands there
        found.append(one)
    return found
