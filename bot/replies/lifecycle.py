"""The present state of one reply, shared by the parts that make it."""

import asyncio
from dataclasses import replace

from bot.core.reply_state import (
    Closed,
    Found,
    PriorReply,
    PriorState,
    Reason,
    ReplyState,
    asked_again,
    closed,
    ends_early,
    finishing,
    interrupted,
    opened,
    opening,
    restarted,
    shown,
)


class ReplyLifecycle:
    """Holds the state of a reply, and applies what happens to it.

    Attributes:
        state: the present state.
        prior: what an earlier process has left of the reply.
        ended: set when the reply ends before the model does.
    """

    def __init__(self, before: PriorState) -> None:
        self.state: ReplyState = opening(before)
        self.prior = PriorReply(outdated=before is PriorState.WHOLE)
        self.ended = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more may be sent."""
        return isinstance(self.state, Closed)

    def open(self, found: Found, *, visible: bool) -> None:
        """Note what was found of the reply, and whether something of it stands."""
        self.prior = replace(self.prior, found=found)
        self._move(opened(self.state, visible=visible))
        if found is Found.REDACTED:
            self.close()

    def show(self) -> None:
        """Note that something is sent, which may be visible whatever the send returns."""
        self._move(shown(self.state))

    def restart(self, *, same_messages: bool) -> None:
        """Note that the prompt has changed.

        Args:
            same_messages: whether a message has other words, and no message joined or left.
        """
        if same_messages:
            self.prior = replace(self.prior, outdated=True)
        self._move(restarted(self.state))

    def ask_again(self) -> None:
        """Note that the model is asked for the prompt as it is now."""
        self._move(asked_again(self.state))

    def interrupt(self, reason: Reason) -> None:
        """Note that the reply is to end early."""
        self._move(interrupted(self.state, reason))

    def finish(self) -> None:
        """Note that no more text comes."""
        self._move(finishing(self.state))

    def close(self) -> None:
        """Send nothing more."""
        self._move(closed(self.state))

    def _move(self, state: ReplyState) -> None:
        self.state = state
        if ends_early(state):
            self.ended.set()
