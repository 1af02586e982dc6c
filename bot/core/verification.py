"""The steps in a verification of the bot's device that people are told of."""

from dataclasses import dataclass

from bot.core.events import RoomId


@dataclass(frozen=True, slots=True)
class EmojiShown:
    """Both sides show emoji, for the person to compare.

    Attributes:
        numbers: the seven emoji, as numbers below 64 (spec: SAS method, emoji).
    """

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VerificationDone:
    """Both sides have confirmed each other's keys."""


@dataclass(frozen=True, slots=True)
class VerificationCancelled:
    """The verification ended without success.

    Attributes:
        code: the spec's code of the cancellation (`m.user`, `m.mismatched_sas`, …).
    """

    code: str


@dataclass(frozen=True, slots=True)
class VerificationRefused:
    """The bot does not verify with this person.

    Attributes:
        room_id: the room to tell them in; None for none.
    """

    room_id: RoomId | None


VerificationStep = EmojiShown | VerificationDone | VerificationCancelled | VerificationRefused
