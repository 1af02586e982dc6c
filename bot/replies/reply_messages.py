"""The messages of one reply: what this process has put into each of them."""

from collections.abc import Sequence
from dataclasses import replace

from bot.core.events import EventId
from bot.core.markdown import Part
from bot.core.outgoing import OutgoingEdit, Reply
from bot.monitoring.health import Health
from bot.ports.clock import Clock
from bot.replies.delivery import ReplyDelivery
from bot.replies.lifecycle import ReplyLifecycle
from bot.replies.reply_text import ReplyText


class ReplyMessages:
    """Brings the messages of a reply to the wanted version, and knows what stands in them.

    Attributes:
        begun_at: when the prompt was heard, in the clock's monotonic seconds.
        first_words: seconds from then until words of the model stood in the room.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        health: Health,
        lifecycle: ReplyLifecycle,
        text: ReplyText,
        delivery: ReplyDelivery,
    ) -> None:
        self.begun_at = clock.monotonic()
        self.first_words: float | None = None
        self._clock = clock
        self._health = health
        self._lifecycle = lifecycle
        self._text = text
        self._delivery = delivery
        self._standing: dict[int, Reply] = {}

    @property
    def event_ids(self) -> Sequence[EventId]:
        """The reply's messages, by part."""
        return self._delivery.event_ids

    @property
    def parts(self) -> Sequence[Part]:
        """The parts of the text that this process has put into the room."""
        return [one.part for one in self._standing.values()]

    def version(self, number: int, part: Part, added: tuple[str, ...] = ()) -> Reply:
        """Return a version of message `number`.

        Args:
            number: 0 for the first message.
            part: the model's words.
            added: lines of the bot behind them.
        """
        above = self._text.above if number == 0 else ()
        delivery = self._delivery
        return Reply(
            prompt=delivery.prompt,
            part=part,
            model=self._text.model,
            added=added,
            above=above,
            claim=delivery.claim,
        )

    def void(self) -> Reply:
        """Return what replaces a part that the text does not have any more."""
        added = (self._text.texts("void"),)
        return replace(self.version(-1, Part(""), added), final=True)

    async def put(self, number: int, reply: Reply, stage: str, claim: int) -> None:
        """Bring message `number` to `reply`: post it, edit it, or leave it if it is that already.

        Where an earlier process may have posted the message, its content is unknown, and an edit
        must follow.

        Args:
            number: 0 for the first message.
            reply: the wanted version.
            stage: of an edit, for its transaction id: "edit:1", "edit:2", … is tried once, as a
                newer version will follow; "final" is tried until it is accepted.
            claim: of an edit, the claim under which its text was made.
        """
        delivery = self._delivery
        if self.has(number, reply):
            return
        if number >= len(delivery.event_ids):
            self._lifecycle.show()
            await delivery.post(number, reply)
            if not delivery.is_first_send:
                return
        else:
            edit = OutgoingEdit(delivery.event_ids[number], reply)
            send = delivery.edit_once if stage.startswith("edit") else delivery.edit
            await send(number, edit, stage, claim)
        self.note(number, reply)

    def has(self, number: int, reply: Reply) -> bool:
        """Return whether message `number` is known to be `reply`, of the same claim."""
        stands = self._standing.get(number)
        return stands is not None and (stands, stands.claim) == (reply, reply.claim)

    def has_part(self, number: int, part: Part) -> bool:
        """Return whether message `number` is known to show this part of the text."""
        stands = self._standing.get(number)
        return stands is not None and stands.part == part

    def note(self, number: int, reply: Reply) -> None:
        """Note that message `number` is `reply` now."""
        if reply.part.source and not any(part.source for part in self.parts):
            self.first_words = self._clock.monotonic() - self.begun_at
            self._health.first_words(self.first_words)
        self._standing[number] = reply

    def one_text(self) -> list[Reply]:
        """Return what stands in the first messages, as far as it is one text of this process.

        Behind them may stand parts of an older text.
        """
        found = list[Reply]()
        for number, one in sorted(self._standing.items()):
            if number != len(found) or one.claim != self._standing[0].claim:
                break
            found.append(one)
        return found
