"""The states of one reply while this process makes it, and the transitions between them.

    Opening              → Waiting or Streaming
    Waiting              → Streaming
    Waiting or Streaming ↔ Restarting
    any of these         → Interrupted or Finishing
    Interrupted          → Finishing
    any state            → Closed, which is left for no other

All functions are pure: they take a state and return the next one, or the same one if the event
changes nothing.
"""

from dataclasses import dataclass, replace
from enum import Enum


class PriorState(Enum):
    """What is known of earlier work on a reply before the room is searched for it."""

    NOTHING = "nothing"
    PERHAPS = "perhaps"  # the prompt came while the bot was away: another process may know it
    BEGUN = "begun"  # an earlier process has claimed the prompt, and may have shown something
    WHOLE = "whole"  # a complete reply stands, and is to be replaced


class Found(Enum):
    """What the search of the room has found of a reply that an earlier process began."""

    NOTHING = "nothing"
    PART = "part"  # some messages, and no final version of all of them
    WHOLE = "whole"  # the final version
    WORDLESS = "wordless"  # a final version without words of the model, or another prompt's reply
    REDACTED = "redacted"  # its first message was redacted
    HIDDEN = "hidden"  # nothing, but messages of the bot that could not be read may be the reply


@dataclass(frozen=True, slots=True)
class PriorReply:
    """What an earlier process has left of a reply.

    Attributes:
        found: what stands in the room.
        outdated: whether the prompt has other words by now, so that its final version is not
            the one that is wanted.
    """

    found: Found = Found.NOTHING
    outdated: bool = False

    @property
    def is_doubtful(self) -> bool:
        """Whether the reply may stand unfound, and was not asked for again."""
        return self.found is Found.HIDDEN and not self.outdated

    @property
    def is_settled(self) -> bool:
        """Whether the final version stands, and is still the one that is wanted."""
        return self.found in {Found.WHOLE, Found.WORDLESS} and not self.outdated


class Reason(Enum):
    """Why a reply ends before the model does; the value is the key of the sentence that says so.

    After each of them, what stands in the room is kept and marked.
    """

    STOPPED = "stopped"
    STOPPED_DIRECT = "stopped direct"
    THREAD_GONE = "thread gone"
    ABANDONED = "model truncated"  # nobody asks any more: where nothing stands, nothing is sent


@dataclass(frozen=True, slots=True)
class Opening:
    """The prompt is being claimed, and the room searched for what stands of the reply.

    Attributes:
        visible: whether something of the reply may be visible.
    """

    visible: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing of the reply is visible: the prompt waits for its slot, or for the first words."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """Something of the reply may be visible, and the model may not be done yet."""


@dataclass(frozen=True, slots=True)
class Restarting:
    """The prompt has changed since the model was asked: its present answer is not wanted.

    Attributes:
        visible: whether something of the reply may be visible.
    """

    visible: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The reply ends before the model does: the model is not read any more.

    Attributes:
        visible: whether something of the reply may be visible.
        outdated: whether the prompt has changed since the model was asked.
    """

    reason: Reason
    visible: bool
    outdated: bool = False


@dataclass(frozen=True, slots=True)
class Finishing:
    """The text is known, and its final version is being sent, or was sent.

    Attributes:
        reason: None where the model came to its end, or failed.
        visible: whether something of the reply may be visible.
    """

    reason: Reason | None
    visible: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing more is sent: there is nobody or nothing to answer any more.

    Attributes:
        visible: whether something of the reply may be visible.
    """

    visible: bool


ReplyState = Opening | Waiting | Streaming | Restarting | Interrupted | Finishing | Closed


def opening(before: PriorState) -> ReplyState:
    """Return the state of a new reply."""
    return Opening(before in {PriorState.BEGUN, PriorState.WHOLE})


def opened(state: ReplyState, *, visible: bool) -> ReplyState:
    """Return the state once it is known what stands in the room.

    Args:
        state: the state so far; the reply may have been interrupted or closed meanwhile.
        visible: whether something of the reply stands.
    """
    match state:
        case Opening():
            return Streaming() if visible else Waiting()
        case Interrupted() | Closed():
            return replace(state, visible=visible)
        case _:
            return state


def shown(state: ReplyState) -> ReplyState:
    """Return the state once something is sent: it may be visible, whatever the send returns."""
    match state:
        case Waiting():
            return Streaming()
        case Opening() | Restarting() | Interrupted() | Finishing() | Closed():
            return replace(state, visible=True)
        case Streaming():
            return state


def restarted(state: ReplyState) -> ReplyState:
    """Return the state once the prompt has changed."""
    match state:
        case Waiting() | Streaming():
            return Restarting(is_visible(state))
        case _:
            return state


def asked_again(state: ReplyState) -> ReplyState:
    """Return the state once the changed prompt is the one that the model is asked."""
    match state:
        case Restarting(visible):
            return Streaming() if visible else Waiting()
        case Interrupted():
            return replace(state, outdated=False)
        case _:
            return state


def interrupted(state: ReplyState, reason: Reason) -> ReplyState:
    """Return the state once the reply is to end early, where it does not already."""
    match state:
        case Opening() | Waiting() | Streaming() | Restarting():
            return Interrupted(reason, is_visible(state), isinstance(state, Restarting))
        case Finishing(None):
            return replace(state, reason=reason)
        case _:
            return state


def finishing(state: ReplyState) -> ReplyState:
    """Return the state once no more text comes."""
    match state:
        case Opening() | Waiting() | Streaming() | Restarting():
            return Finishing(None, is_visible(state))
        case Interrupted(reason, visible):
            return Finishing(reason, visible)
        case _:
            return state


def closed(state: ReplyState) -> ReplyState:
    """Return the state once nothing more may be sent."""
    return Closed(is_visible(state))


def is_visible(state: ReplyState) -> bool:
    """Return whether something of the reply may be visible in the room."""
    match state:
        case Waiting():
            return False
        case Streaming():
            return True
        case _:
            return state.visible


def can_restart(state: ReplyState) -> bool:
    """Return whether a changed prompt can still change the reply."""
    return isinstance(state, Opening | Waiting | Streaming | Restarting)


def can_stop(state: ReplyState, *, several_missing: bool) -> bool:
    """Return whether a stop still changes the reply.

    Args:
        state: the present state.
        several_missing: whether more than one message of the text does not stand yet.
    """
    match state:
        case Finishing(None):
            return several_missing
        case _:
            return can_restart(state)


def is_outdated(state: ReplyState) -> bool:
    """Return whether the prompt has changed since the model was asked."""
    match state:
        case Restarting():
            return True
        case Interrupted():
            return state.outdated
        case _:
            return False


def reason_of(state: ReplyState) -> Reason | None:
    """Return why the reply ends before the model does, None where it does not, or is closed."""
    match state:
        case Interrupted(reason) | Finishing(reason):
            return reason
        case _:
            return None


def ends_early(state: ReplyState) -> bool:
    """Return whether nobody waits for more text of the model."""
    return isinstance(state, Closed) or reason_of(state) is not None
