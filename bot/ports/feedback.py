"""The feedback port: polls about replies, ratings and comments."""

from collections.abc import Callable, Sequence
from typing import Protocol

from bot.core.events import (
    Conversation,
    Edit,
    EventId,
    Message,
    Prompt,
    Reaction,
    RoomId,
    UserId,
    Vote,
)
from bot.core.feedback import Ask, AskHistory, Rating, ReplyMetadata, VoteOutcome


class Opinions(Protocol):
    """What people think of replies: polls, votes, ratings, comments; a part of the ledger.

    People are kept as pseudonyms, comments sealed. Times are in seconds since the epoch. It waits
    and raises as `Store` does.

    `answered` records how the reply to a prompt came about, and plans the poll about it that
    `after` wants, in so many seconds from `at`; it returns when that is due, None for never.
    `due` returns the polls to be sent by `now`, the oldest first, and when the next one is due.
    `begin` records that one may be sent from now on, False where it is not wanted any more; until
    `asked` records that it was, and until when votes count, `is_begun` holds for its room.
    `put_off` and `drop` record that it is sent later, or never.
    `poll` returns the poll that stands at an event, None for none.
    `count` takes in a vote, once however often it is told, and plans the next question where
    there is one; None where it does not count: for a poll that is not ours, too late, or of
    somebody who was not asked. `rate` takes in what somebody says of a reply without a poll.
    `is_said` tells whether an event has said something of a reply in words, that still counts.
    `comment` keeps a comment, and `amend` lets it, or a word that was taken for a rating, say what
    the edit by its author says: another rating, or else a comment. `withdraw` takes
    back what an event has said, what was shared of a prompt, or planned about it; it tells of no
    event that it knows nothing of.
    `share` keeps the words of a prompt and of its reply, which a person hands over.
    `last_answered` returns the prompt of the last reply in a conversation.
    `want_polls` records whether a person, or the people of a room, are to be asked at all.
    """

    async def answered(
        self,
        prompt: Prompt,
        how: ReplyMetadata,
        after: Callable[[AskHistory], float | None],
        at: float,
    ) -> float | None: ...

    async def due(self, now: float) -> tuple[Sequence[Ask], float | None]: ...

    async def begin(self, ask: Ask) -> bool: ...

    async def is_begun(self, room_id: RoomId) -> bool: ...

    async def asked(self, ask: Ask, event_id: EventId, at: float, closes_at: float) -> None: ...

    async def put_off(self, ask: Ask, due_at: float) -> None: ...

    async def drop(self, ask: Ask) -> None: ...

    async def poll(self, room_id: RoomId, event_id: EventId) -> Ask | None: ...

    async def count(self, vote: Vote, at: float) -> VoteOutcome | None: ...

    async def rate(
        self, said: Reaction | Message, prompt: EventId, answer: Rating, at: float
    ) -> None: ...

    async def comment(self, said: Message, prompt: EventId | None, at: float) -> None: ...

    async def is_said(self, event_id: EventId) -> bool: ...

    async def amend(self, edit: Edit, rating: Rating | None, at: float) -> None: ...

    async def share(
        self, said: Message, prompt: EventId, exchange: tuple[str, str], at: float
    ) -> None: ...

    async def withdraw(self, event_id: EventId) -> None: ...

    async def last_answered(self, conversation: Conversation) -> EventId | None: ...

    async def want_polls(self, whose: UserId | RoomId, *, wanted: bool) -> None: ...
