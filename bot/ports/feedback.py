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
    """What people think of replies, as a part of the ledger: polls, votes, ratings, comments.

    People are stored as pseudonyms and comments are encrypted. Times are in seconds since the
    epoch. Every method waits and raises as those of `Store`.
    """

    async def answered(
        self,
        prompt: Prompt,
        how: ReplyMetadata,
        after: Callable[[AskHistory], float | None],
        at: float,
    ) -> float | None:
        """Record how the reply to a prompt was made, and plan the poll about it.

        Args:
            prompt: the prompt that was answered.
            how: the reply's metadata; a value of None leaves the one of an earlier call.
            after: returns how many seconds after `at` the poll is due; None for no poll.
            at: time of the reply.

        Returns:
            The time at which the poll is due; None if there will be none.
        """

    async def due(self, now: float) -> tuple[Sequence[Ask], float | None]:
        """Return the polls that are due by `now`, oldest first, and when the next one is due."""

    async def begin(self, ask: Ask) -> bool:
        """Record that a poll may be sent from now on; return whether it is still wanted."""

    async def is_begun(self, room_id: RoomId) -> bool:
        """Return whether the room has a begun poll that `poll_sent` has not recorded yet."""

    async def poll_sent(self, ask: Ask, event_id: EventId, at: float, closes_at: float) -> None:
        """Record that a poll was sent as the event `event_id`, and until when votes count."""

    async def put_off(self, ask: Ask, due_at: float) -> None:
        """Record that a poll will be sent later."""

    async def drop(self, ask: Ask) -> None:
        """Record that a poll will never be sent."""

    async def poll(self, room_id: RoomId, event_id: EventId) -> Ask | None:
        """Return the poll that an event of the room is; None if it is none of the bot's polls."""

    async def count(self, vote: Vote, at: float) -> VoteOutcome | None:
        """Store a vote, and plan the next question if there is one; safe to repeat.

        Returns:
            The outcome; None if the vote does not count: the poll is not the bot's, the vote is
            too late, or its sender was not asked.
        """

    async def rate(
        self, event: Reaction | Message, prompt: EventId, answer: Rating, at: float
    ) -> None:
        """Store a rating that was given without a poll: by a reaction or by one word."""

    async def comment(self, message: Message, prompt: EventId | None, at: float) -> None:
        """Store a comment on the reply to a prompt; None for a comment on no single reply."""

    async def is_opinion(self, event_id: EventId) -> bool:
        """Return whether a message is stored as a comment, or as a rating by one word."""

    async def amend(self, edit: Edit, rating: Rating | None, at: float) -> None:
        """Replace a comment or a rating by one word with the text of its author's edit.

        Args:
            edit: the edit; a comment is deleted if its body is empty.
            rating: the rating that the new text is; None if it is a comment.
            at: time of the edit.
        """

    async def share(
        self, message: Message, prompt: EventId, exchange: tuple[str, str], at: float
    ) -> None:
        """Store the text of a prompt and of its reply, which a person has chosen to hand over."""

    async def withdraw(self, event_id: EventId) -> None:
        """Delete the data that came from a redacted event.

        These are its rating, vote, comment or shared exchange; if it is a prompt, also the shared
        exchanges and the planned poll about it. An unknown event changes nothing.
        """

    async def last_answered(self, conversation: Conversation) -> EventId | None:
        """Return the prompt of the last reply in a conversation; None if there is none."""

    async def want_polls(self, whose: UserId | RoomId, *, wanted: bool) -> None:
        """Record whether a person, or everybody in a room, may be sent polls at all."""
