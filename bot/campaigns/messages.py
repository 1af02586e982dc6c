"""The messages of a campaign: build the message of a step, and send it once."""

from bot.core.campaigns import (
    Campaign,
    offered,
)
from bot.core.events import EventId, RoomId
from bot.core.outgoing import Anchor, Notice, Outgoing
from bot.core.polls import Poll
from bot.errors import Forbidden
from bot.i18n.texts import Texts
from bot.replies.notices import Notifier

_PATIENCE = 30.0  # seconds for which one message is tried before it is put off


def message_of(campaign: Campaign, step: int, texts: Texts, root: EventId | None) -> Outgoing:
    """Return the message of a step; the first one notifies people, unless it is a poll."""
    question, notifies = campaign.question(step), campaign.notifies and step == 0
    anchor = None if root is None else Anchor(root, root)
    if question is None:
        return Notice(text=campaign.message, to=anchor, notifies=notifies)
    if question.kind == "text":
        text = texts("campaign text", question=question.text)
        return Notice(text=text, to=anchor, asks=True, notifies=notifies)
    return Poll(
        question=question.text,
        answers=offered(question),
        disclosed=False,
        thread_root=root,
        latest=root,
    )


async def send(
    notifier: Notifier, room_id: RoomId, outgoing: Outgoing, cause: EventId, stage: str
) -> EventId:
    """Send a message of a campaign exactly once, over all processes.

    Args:
        notifier: the sender of the message.
        room_id: the room.
        outgoing: the message.
        cause: an id of the campaign and of the message's subject.
        stage: the name that distinguishes it from other messages of that cause.

    Raises:
        MatrixError: the message cannot be sent now, or never.
    """
    event_id = await notifier.send_once(
        room_id, outgoing, cause, f"campaign {stage}", failpoint="campaign", within=_PATIENCE
    )
    if event_id is None:
        raise Forbidden("the bot can no longer speak there")
    return event_id
