"""Verification of the bot's device by a person: what comes of each step."""

from dataclasses import dataclass

from bot.core.events import RoomId


@dataclass(frozen=True, slots=True)
class EmojiShown:
    """Both sides show emoji by now, which the person is to compare.

    Attributes:
        numbers: seven numbers below 64 (spec: SAS method, emoji).
    """

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VerificationDone:
    """Both sides have found the other's keys to be right."""


@dataclass(frozen=True, slots=True)
class VerificationCancelled:
    """It ended without that; `code` is the spec's (`m.user`, `m.mismatched_sas`, …)."""

    code: str


@dataclass(frozen=True, slots=True)
class VerificationRefused:
    """The bot does not verify with this person; `room_id` is where to tell them, None nowhere."""

    room_id: RoomId | None


VerificationStep = EmojiShown | VerificationDone | VerificationCancelled | VerificationRefused
