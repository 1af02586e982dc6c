"""Feedback: who is asked whether a reply has helped, and what becomes of what they say."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import structlog

from bot.core.events import (
    Conversation,
    Edit,
    EventId,
    Message,
    Prompt,
    Reaction,
    Redaction,
    RoomId,
    Undecryptable,
    UserId,
    Vote,
)
from bot.core.feedback import (
    ANSWERS,
    COMMAND,
    LONGEST_COMMENT,
    SHARE,
    THUMBS,
    Ask,
    AskHistory,
    AskPolicy,
    Question,
    Rating,
    ReplyMetadata,
    ask_after,
    rating_in,
)
from bot.core.intents import Comment
from bot.core.outgoing import Anchor, Notice
from bot.core.polls import Poll, PollAnswer
from bot.core.routing import parse_command
from bot.errors import FatalError, MatrixError
from bot.i18n.texts import Texts
from bot.monitoring.error_boundary import error_boundary
from bot.monitoring.health import Health
from bot.ports.clock import Clock
from bot.ports.feedback import Opinions
from bot.ports.ledger import Exchange, Store
from bot.ports.matrix import Matrix
from bot.replies.context_builder import Contexts
from bot.replies.generations import ActiveGenerations, Generation
from bot.replies.notices import Notifier
from bot.runtime.broadcast import Broadcast
from bot.runtime.retry import retry_until_accepted
from bot.runtime.waiting import wait_for_event

_STALE = 3600.0  # seconds after which nobody is asked any more about a reply
_PATIENCE = 30.0  # for which one poll is tried before others get their turn
_AGAIN = 120.0  # until it gets another

# The sentences of each poll: its question, and its answers by their ids.
_POLLS: dict[Question, tuple[str, dict[str, str]]] = {
    "helped": (
        "poll helped",
        {"yes": "poll helped yes", "partly": "poll helped partly", "no": "poll helped no"},
    ),
    "why": (
        "poll why",
        {
            "inaccurate": "poll why inaccurate",
            "incomplete": "poll why incomplete",
            "off_topic": "poll why off topic",
            "too_long": "poll why too long",
            "sources": "poll why sources",
            "other": "poll why other",
        },
    ),
}

Shared = Literal["shared", "share how", "not shared", "nothing to share"]

log = structlog.get_logger()


class FeedbackCollector:
    """Asks about replies as the policy says, and takes in what people think of them."""

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        health: Health,
        opinions: Opinions,
        generations: ActiveGenerations,
        contexts: Contexts,
        notifier: Notifier,
        policy: AskPolicy,
    ) -> None:
        self._matrix = matrix
        self._store = store
        self._clock = clock
        self._health = health
        self._opinions = opinions
        self._generations = generations
        self._contexts = contexts
        self._notifier = notifier
        self._policy = policy
        self._planned = asyncio.Event()
        self._changes = Broadcast()

    async def run(self, synced: asyncio.Event) -> None:
        """Send each poll when it is due, for ever; those of earlier processes are among them.

        Args:
            synced: set once it is known in which rooms the bot can speak.
        """
        await synced.wait()
        while True:
            self._planned.clear()
            asks, next_due = await self._opinions.due(self._clock.now())
            for ask in asks:
                await self._try(ask)
            if not asks:
                wait = None if next_due is None else next_due - self._clock.now()
                await wait_for_event(self._clock, self._planned, wait)

    async def answered(self, answering: Generation) -> None:
        """Note how a reply that stands came about, and plan the poll about it where one is due.

        Of one that an earlier process has brought to its end, only that it stands is known.
        """
        prompt, outcome = answering.prompt, answering.reply.outcome
        if outcome is None:
            return
        how = ReplyMetadata(
            prompt.sender,
            self._matrix.room(prompt.room_id).direct,
            outcome.model,
            self._contexts.prompt_version,
            outcome.first_words,
            outcome.seconds,
            outcome.usage.prompt_tokens if outcome.usage else None,
            outcome.usage.completion_tokens if outcome.usage else None,
            await self._length(answering, outcome.characters),
        )
        # In the main timeline of a salon nobody could tell what a poll is about.
        asks = outcome.whole and (how.direct or prompt.thread_root is not None)

        def after(past: AskHistory) -> float | None:
            return ask_after(self._policy, how, past, prompt.event_id) if asks else None

        now = self._clock.now()
        if await self._opinions.answered(prompt, how, after, now) is not None:
            self._planned.set()

    async def _length(self, answering: Generation, known: int | None) -> int | None:
        """Return how long a reply is, as far as that can be had: an earlier process knew it."""
        if known is not None:
            return known
        try:
            reply, room_id = answering.reply.event_ids, answering.prompt.room_id
            words = await self._words(room_id, reply, self._matrix.user_id)
        except FatalError:
            raise
        except MatrixError as error:
            log.info("length of a reply not known", reason=str(error))
            return None
        return None if words is None else len(words)

    async def _try(self, ask: Ask) -> None:
        """Send one poll, once, or put it off. Its errors end here."""
        ids = {"event_id": ask.prompt, "room_id": ask.room_id}
        with structlog.contextvars.bound_contextvars(**ids):
            async with error_boundary(
                "poll refused by the homeserver",
                put_off=lambda _: self._opinions.put_off(ask, self._clock.now() + _AGAIN),
                later="poll put off",
                give_up=lambda: self._drop(ask),
            ):
                await self._ask(ask)

    async def _ask(self, ask: Ask) -> None:
        now, room = self._clock.now(), self._matrix.room(ask.room_id)
        place = Conversation(ask.room_id, ask.thread_root)
        stale = not ask.begun and now - ask.planned_at > _STALE
        # Since it was planned a colleague may have come in, or the settings have changed.
        polled = room.direct or (self._policy.salons == "poll" and ask.thread_root is not None)
        if room.closed or stale or not (polled or ask.begun):
            await self._drop(ask)
            return
        if not ask.begun and self._generations.is_followed(place, ask.prompt):
            # It has not fallen silent.
            await self._opinions.put_off(ask, now + self._policy.silence)
            return
        asker = None if room.direct else await self._asker(ask)
        if not room.direct and asker is None:  # what was asked is gone
            await self._drop(ask)
            return
        if not await self._opinions.begin(ask):
            return
        texts = (await self._contexts.chosen(place)).texts
        poll = self._poll(ask, texts, asker)
        event_id = await self._notifier.send_once(
            *(ask.room_id, poll, ask.prompt, f"poll {ask.question}"),
            failpoint="poll",
            within=_PATIENCE,
        )
        if event_id is None:
            await self._drop(ask)
            return
        await self._opinions.asked(ask, event_id, now, now + self._policy.window)
        self._changes.send()
        self._health.poll_sent(ask.question)
        log.info("poll sent", question=ask.question)

    async def _asker(self, ask: Ask) -> UserId | None:
        """Return who has written the prompt; the ledger knows a pseudonym alone."""
        heard: object = self._matrix.known.get(ask.prompt)
        if heard is None:  # an earlier process has heard it
            fetch = partial(self._matrix.fetch, ask.room_id, ask.prompt)
            heard = await retry_until_accepted(self._clock, fetch, within=_PATIENCE)
        return heard.sender if isinstance(heard, Message | Undecryptable) else None

    def _poll(self, ask: Ask, texts: Texts, asker: UserId | None) -> Poll:
        """Return the poll; in a salon it names and mentions whom it asks."""
        key, answers = _POLLS[ask.question]
        question = texts(key)
        if asker is not None:
            name = self._matrix.name(ask.room_id, asker)
            question = texts("poll in salon", name=name, question=question)
        return Poll(
            question,
            tuple(PollAnswer(one, texts(answers[one])) for one in ANSWERS[ask.question]),
            disclosed=asker is None,
            thread_root=ask.thread_root,
            latest=ask.prompt,
            asks=asker,
        )

    async def _drop(self, ask: Ask) -> None:
        await self._opinions.drop(ask)
        self._changes.send()

    async def knows(self, vote: Vote) -> bool:
        """Tell whether a vote is in one of these polls, which may just have been sent.

        The homeserver may tell of the vote before its answer to the poll has come; an earlier
        process may have ended before that.
        """
        while True:
            changed = self._changes.current
            if await self._opinions.poll(vote.room_id, vote.target) is not None:
                return True
            if not await self._opinions.is_begun(vote.room_id):
                return await self._opinions.poll(vote.room_id, vote.target) is not None
            await changed.wait()

    async def count(self, vote: Vote) -> None:
        """Count a vote; ask for the reason, or say thanks, once."""
        counted = await self._opinions.count(vote, self._clock.now())
        if counted is None:
            log.info("vote does not count")
            return
        self._health.opinion_given("vote")
        log.info("vote counted", question=counted.ask.question)
        if counted.goes_on:
            self._planned.set()
        if counted.thanks:
            await self._thank(counted.ask)

    async def _thank(self, ask: Ask) -> None:
        place = Conversation(ask.room_id, ask.thread_root)
        texts = (await self._contexts.chosen(place)).texts
        root = ask.thread_root
        notice = Notice(texts("thanks"), None if root is None else Anchor(ask.prompt, root))
        await self._notifier.send_once(
            *(ask.room_id, notice, ask.prompt, f"thanks {ask.question}"),
            failpoint="thanks",
            within=_PATIENCE,
        )

    async def react(self, reaction: Reaction) -> None:
        """Take in a thumb on a reply."""
        await self.rate(reaction, reaction.target, THUMBS[reaction.key])

    async def rate(self, said: Reaction | Message, event_id: EventId, answer: Rating) -> bool:
        """Take in what a person says of the reply that an event is a message of, or its prompt."""
        exchange = await self._store.exchange(said.room_id, event_id)
        if exchange is None or not exchange.reply:
            return False
        if isinstance(said, Reaction) and event_id not in exchange.reply:
            return False
        await self._opinions.rate(said, exchange.prompt[0], answer, self._clock.now())
        self._health.opinion_given("thumb" if isinstance(said, Reaction) else "word")
        log.info("reply rated")
        return True

    async def comment(self, comment: Comment) -> bool:
        """Keep what a person writes in reply to a poll; False where that is none of ours."""
        ask = await self._opinions.poll(comment.prompt.room_id, comment.poll)
        if ask is None:
            return False
        await self.keep(comment.prompt.messages[0], ask.prompt)
        return True

    async def keep(self, said: Message, prompt: EventId | None) -> None:
        """Keep a comment on the reply to `prompt`, None where there is none."""
        await self._opinions.comment(said, prompt, self._clock.now())
        self._health.opinion_given("comment")
        log.info("comment kept")

    async def amend(self, edit: Edit) -> None:
        """Let a comment, or a word that rates a reply, say what its edit says.

        What is no such command any more, and answers no poll, says nothing of a reply.
        """
        if not await self._opinions.is_said(edit.target):
            return
        name, argument = parse_command(edit.body) or ("", "")
        said, rating = "", None
        if name in COMMAND:
            said, rating = argument.strip(), rating_in(argument)
            too_long = len(said) > LONGEST_COMMENT
            said = "" if too_long or said.lower().partition(" ")[0] in SHARE else said
        elif not name and not await self._is_command(edit):
            said = edit.body
        await self._opinions.amend(replace(edit, body=said), rating, self._clock.now())

    async def _is_command(self, edit: Edit) -> bool:
        """Tell whether what is edited was a command, as whatever answers no poll of ours."""
        room_id, target = edit.room_id, edit.target
        said: object = self._matrix.known.get(target)
        if said is None:  # an earlier process has heard it
            said = await retry_until_accepted(
                self._clock, partial(self._matrix.fetch, room_id, target)
            )
        if not isinstance(said, Message):  # it cannot be read: its words alone are known
            return False
        quoted = said.replies_to
        return quoted is None or await self._opinions.poll(room_id, quoted) is None

    async def withdraw(self, redaction: Redaction) -> None:
        """Take back the vote, the thumb or the comment that was redacted."""
        target = redaction.target
        await self._opinions.withdraw(target)
        exchange = await self._store.exchange(redaction.room_id, target)
        if exchange is not None and target in exchange.prompt[1:]:  # what it is a part of
            await self._opinions.withdraw(exchange.prompt[0])

    async def meant(self, prompt: Prompt) -> EventId | None:
        """Return the prompt whose reply a command is about: what it replies to, else the last."""
        quoted = prompt.messages[0].replies_to
        if quoted is None:
            return await self._opinions.last_answered(prompt.conversation)
        ask = await self._opinions.poll(prompt.room_id, quoted)
        if ask is not None:
            return ask.prompt
        exchange = await self._store.exchange(prompt.room_id, quoted)
        return exchange.prompt[0] if exchange is not None and exchange.reply else None

    async def share(self, said: Message, about: EventId | None, *, sure: bool) -> Shared:
        """Keep the words of a prompt and its reply, as they stand, where the person is sure.

        Only who has asked may hand them over. Where no answer has come, or it holds lines of the
        bot's own alone, or is gone, nothing is kept.

        Args:
            said: the command.
            about: an event that is a message of either; None for nothing.
            sure: the person has been told what it means.

        Returns:
            What to say, by its key.
        """
        room_id = said.room_id
        exchange = None if about is None else await self._whole(room_id, about)
        if exchange is None or not exchange.reply:
            return "nothing to share"
        replied = await self._words(room_id, exchange.reply, self._matrix.user_id)
        if replied is None or not replied.strip():
            return "nothing to share"
        if not sure:
            return "share how"
        asked = await self._words(room_id, exchange.prompt, said.sender)
        if asked is None:
            return "not shared"
        both = asked, replied
        await self._opinions.share(said, exchange.prompt[0], both, self._clock.now())
        log.info("exchange shared")
        return "shared"

    async def _whole(self, room_id: RoomId, event_id: EventId) -> Exchange | None:
        """Return a prompt and its reply, once that is whole where it is being written."""
        exchange = await self._store.exchange(room_id, event_id)
        running = self._generations.of(room_id, exchange.prompt[0]) if exchange else None
        if running is None or not running.reply.visible:
            return exchange
        await running.done.wait()
        return await self._store.exchange(room_id, event_id)

    async def _words(
        self, room_id: RoomId, event_ids: Sequence[EventId], sender: UserId
    ) -> str | None:
        """Return what messages say together; None where one is gone, or somebody else's."""
        words = []
        for event_id in event_ids:
            fetch = partial(self._matrix.fetch, room_id, event_id)
            one = await retry_until_accepted(self._clock, fetch, within=_PATIENCE)
            if not isinstance(one, Message) or one.sender != sender:
                return None
            words.append(one.body)
        return "\n\n".join(words)

    async def want_polls(self, whose: UserId | RoomId, *, wanted: bool) -> None:
        """Note whether a person, or the people of a room, are to be asked at all."""
        await self._opinions.want_polls(whose, wanted=wanted)
