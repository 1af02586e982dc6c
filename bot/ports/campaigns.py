"""The campaign port: announcements and polls to many rooms."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from bot.core.campaigns import (
    AskedQuestion,
    CampaignResults,
    DeliveryProgress,
    DueMessage,
    Recipient,
)
from bot.core.events import (
    Edit,
    EventId,
    Message,
    Room,
    RoomId,
    Vote,
)


class CampaignLedger(Protocol):
    """Campaigns and their progress, as a part of the ledger.

    Times are in seconds since the epoch; steps count from 0. Every method waits and raises as
    those of `Store`.
    """

    # The life of a campaign.

    async def draft(self, name: str, definition: str, at: float) -> bool:
        """Store a campaign as a draft; False if one of that name was launched already."""

    async def definition(self, name: str) -> str | None:
        """Return the text that defines a campaign; None if it is unknown or cannot be read."""

    async def names(self) -> Sequence[tuple[str, str]]:
        """Return each campaign's name and state, newest first."""

    async def active(self) -> Mapping[RoomId, float]:
        """Return when the bot last answered a prompt in each room."""

    async def launch(
        self, name: str, to: Sequence[Recipient], begins_at: float, ends_at: float | None
    ) -> bool:
        """Start a draft for these rooms; False if there is no draft of that name.

        Args:
            name: the draft's name.
            to: the rooms that it goes to.
            begins_at: time of its first message.
            ends_at: time at which it closes; None if it is closed by hand.
        """

    async def close(self, name: str, at: float) -> bool:
        """End a running campaign, so that its polls get ended; False if it is not running."""

    # Sending.

    async def running(self) -> Sequence[str]:
        """Return the campaigns that still have something to send, or to tell the admins."""

    async def due(self, name: str, now: float) -> tuple[DueMessage | None, float | None] | None:
        """Return the next message of a campaign.

        Returns:
            The first message that is due by `now`, and when to ask again, which is in the past if
            the campaign must be closed; None if nothing is left to be sent.
        """

    async def wanted(self, room: Room, campaign: str, now: float) -> float | None:
        """Return the time from which a campaign may ask a room; None if polls are refused there.

        Within a day, a person or a room is asked by one campaign only.
        """

    async def begin(self, one: DueMessage, room: Room, now: float, *, asks: bool) -> float | None:
        """Record that a step may be sent from now on, if it may be sent by `now`.

        Args:
            one: the step.
            room: its room.
            now: the current time.
            asks: whether the campaign asks questions; an announcement is sent whatever `wanted`
                says.

        Returns:
            The time from which it may be sent; None if it may not be sent at all.
        """

    async def is_begun(self, room_id: RoomId) -> bool:
        """Return whether the room has a begun step that `sent` has not recorded yet."""

    async def sent(
        self,
        one: DueMessage,
        event_id: EventId,
        at: float,
        *,
        question: tuple[str, bool] | None,
        next_due: float | None,
        remind_at: float | None,
    ) -> None:
        """Record that a step was sent.

        Args:
            one: the step.
            event_id: its event.
            at: time of the sending.
            question: the question's key, and whether it is a poll; None for a plain message.
            next_due: time of the next step; None if it waits for an answer, or there is none.
            remind_at: time of the reminder; None for no reminder.
        """

    async def reminded(self, one: DueMessage) -> None:
        """Record that a reminder was sent, or is not needed."""

    async def ended(self, one: DueMessage) -> None:
        """Record that a poll was ended; a closing campaign is closed with its last poll."""

    async def put_off(self, one: DueMessage, due_at: float) -> None:
        """Record that a message will be sent later."""

    async def decline(self, one: DueMessage) -> None:
        """Record that the message's room gets nothing more of its campaign."""

    # Answers.

    async def question_at(self, room_id: RoomId, event_id: EventId) -> AskedQuestion | None:
        """Return the campaign question that an event of the room is; None if it is none."""

    async def answer(
        self,
        response: Vote | Message,
        question: AskedQuestion,
        answer: str | None,
        *,
        step: int,
        steps: int,
        at: float,
    ) -> Literal["goes on", "thanks", "counts", "late"]:
        """Store an answer, and make the next step due; safe to repeat.

        Args:
            response: the vote, or the message that answers in words.
            question: the question.
            answer: id of the chosen answer; None for words, or for a vote that is taken back.
            step: the question's step.
            steps: number of steps of the campaign.
            at: the current time.

        Returns:
            "goes on" if the next step is due, "thanks" if the person is to be thanked, "counts"
            if nothing follows, "late" if it does not count: too late, or nobody asked its sender.
        """

    async def amend(self, edit: Edit) -> None:
        """Replace an answer in words with the text of its author's edit."""

    async def withdraw(self, event_id: EventId) -> None:
        """Delete the answer that a redacted event gave; an unknown event changes nothing."""

    # Results.

    async def results(self, name: str) -> CampaignResults | None:
        """Return a campaign's results so far; None if there is none of that name."""

    async def delivery_progress(self, name: str) -> DeliveryProgress:
        """Return how many rooms of a launched campaign are done."""

    async def milestone_reported(self, name: str, milestone: int) -> None:
        """Record the last milestone that was reported to the admins."""

    async def poll_result(
        self, room_id: RoomId, event_id: EventId
    ) -> tuple[str, Mapping[str, int]] | None:
        """Return a poll's question key, and how often each answer was chosen in the room.

        None if the event is no poll of a campaign.
        """
