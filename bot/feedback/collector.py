"""The collector of feedback: polls about replies, and the votes, ratings and comments on them."""

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

_STALE = 3600.0  # seconds after which a planned poll is dropped
_PATIENCE = 30.0  # seconds for which one poll is tried before it is put off
_AGAIN = 120.0  # seconds until a poll that was put off is tried again

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
    """Sends polls about replies as the policy says, and stores what people think of replies."""

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
        """Send each poll when it is due, for ever, including the polls of earlier processes.

        Args:
            synced: set when the bot knows in which rooms it can speak.
        """
        await synced.wait()
        while True:
            self._planned.clear()
            asks, next_due = await self._opinions.due(self._clock.now())
            for ask in asks:
                await self._send(ask)
            if not asks:
                wait = None if next_due is None else next_due - self._clock.now()
                await wait_for_event(self._clock, self._planned, wait)

    async def answered(self, generation: Generation) -> None:
        """Record how a finished reply was made, and plan a poll about it if the policy says so.

        Most metadata of a reply that an earlier process finished is unknown.
        """
        prompt, outcome = generation.prompt, generation.reply.outcome
        if outcome is None:
            return
        metadata = ReplyMetadata(
            sender=prompt.sender,
            direct=self._matrix.room(prompt.room_id).direct,
            model=outcome.model,
            prompt_version=self._contexts.prompt_version,
            first_words=outcome.first_words,
            seconds=outcome.seconds,
            prompt_tokens=outcome.usage.prompt_tokens if outcome.usage else None,
            completion_tokens=outcome.usage.completion_tokens if outcome.usage else None,
            characters=await self._length(generation, outcome.characters),
        )
        # In the main timeline of a salon, nobody would know which reply a poll is about.
        asks = outcome.whole and (metadata.direct or prompt.thread_root is not None)

        def after(past: AskHistory) -> float | None:
            return ask_after(self._policy, metadata, past, prompt.event_id) if asks else None

        now = self._clock.now()
        if await self._opinions.answered(prompt, metadata, after, now) is not None:
            self._planned.set()

    async def _length(self, generation: Generation, known: int | None) -> int | None:
        """Return the length of a reply in characters; None if its messages cannot be read.

        Only the process that streamed the reply knows the length; later ones fetch the messages.
        """
        if known is not None:
            return known
        try:
            reply, room_id = generation.reply.event_ids, generation.prompt.room_id
            text = await self._joined_text(room_id, reply, self._matrix.user_id)
        except FatalError:
            raise
        except MatrixError as error:
            log.info("length of a reply not known", reason=str(error))
            return None
        return None if text is None else len(text)

    async def _send(self, ask: Ask) -> None:
        """Send one poll exactly once, or put it off. Its errors end here."""
        ids = {"event_id": ask.prompt, "room_id": ask.room_id}
        with structlog.contextvars.bound_contextvars(**ids):
            async with error_boundary(
                "poll refused by the homeserver",
                put_off=lambda _: self._opinions.put_off(ask, self._clock.now() + _AGAIN),
                later="poll put off",
                give_up=lambda: self._drop(ask),
            ):
                await self._send_once(ask)

    async def _send_once(self, ask: Ask) -> None:
        now, room = self._clock.now(), self._matrix.room(ask.room_id)
        conversation = Conversation(ask.room_id, ask.thread_root)
        stale = not ask.begun and now - ask.planned_at > _STALE
        # Since the poll was planned, a person may have joined, or the settings may have changed.
        polled = room.direct or (self._policy.salons == "poll" and ask.thread_root is not None)
        if room.closed or stale or not (polled or ask.begun):
            await self._drop(ask)
            return
        if not ask.begun and self._generations.is_followed(conversation, ask.prompt):
            # The conversation goes on.
            await self._opinions.put_off(ask, now + self._policy.silence)
            return
        asker = None if room.direct else await self._asker(ask)
        if not room.direct and asker is None:  # the prompt was redacted
            await self._drop(ask)
            return
        if not await self._opinions.begin(ask):
            return
        texts = (await self._contexts.chosen(conversation)).texts
        poll = self._poll(ask, texts, asker)
        event_id = await self._notifier.send_once(
            *(ask.room_id, poll, ask.prompt, f"poll {ask.question}"),
            failpoint="poll",
            within=_PATIENCE,
        )
        if event_id is None:
            await self._drop(ask)
            return
        await self._opinions.poll_sent(ask, event_id, now, now + self._policy.window)
        self._changes.send()
        self._health.poll_sent(ask.question)
        log.info("poll sent", question=ask.question)

    async def _asker(self, ask: Ask) -> UserId | None:
        """Return the sender of the prompt; the ledger stores only a pseudonym."""
        event: object = self._matrix.known.get(ask.prompt)
        if event is None:  # an earlier process received it
            fetch = partial(self._matrix.fetch, ask.room_id, ask.prompt)
            event = await retry_until_accepted(self._clock, fetch, within=_PATIENCE)
        return event.sender if isinstance(event, Message | Undecryptable) else None

    def _poll(self, ask: Ask, texts: Texts, asker: UserId | None) -> Poll:
        """Return the poll; in a salon it names and mentions the person whom it asks."""
        key, answers = _POLLS[ask.question]
        question = texts(key)
        if asker is not None:
            name = self._matrix.name(ask.room_id, asker)
            question = texts("poll in salon", name=name, question=question)
        return Poll(
            question=question,
            answers=tuple(PollAnswer(one, texts(answers[one])) for one in ANSWERS[ask.question]),
            disclosed=asker is None,
            thread_root=ask.thread_root,
            latest=ask.prompt,
            asks=asker,
        )

    async def _drop(self, ask: Ask) -> None:
        await self._opinions.drop(ask)
        self._changes.send()

    async def knows(self, vote: Vote) -> bool:
        """Return whether a vote belongs to a poll about a reply.

        A sync may bring the vote before the homeserver acknowledges the poll, or the process may
        have crashed in between. So this waits while the room has a poll that may have been sent.
        """
        while True:
            changed = self._changes.current
            if await self._opinions.poll(vote.room_id, vote.target) is not None:
                return True
            if not await self._opinions.is_begun(vote.room_id):
                return await self._opinions.poll(vote.room_id, vote.target) is not None
            await changed.wait()

    async def count(self, vote: Vote) -> None:
        """Store a vote; plan the poll about the reason, or send thanks, once."""
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
        conversation = Conversation(ask.room_id, ask.thread_root)
        texts = (await self._contexts.chosen(conversation)).texts
        root = ask.thread_root
        notice = Notice(
            text=texts("thanks"), to=None if root is None else Anchor(ask.prompt, root)
        )
        await self._notifier.send_once(
            *(ask.room_id, notice, ask.prompt, f"thanks {ask.question}"),
            failpoint="thanks",
            within=_PATIENCE,
        )

    async def react(self, reaction: Reaction) -> None:
        """Store the rating that a thumb on a reply gives."""
        await self.rate(reaction, reaction.target, THUMBS[reaction.key])

    async def rate(self, source: Reaction | Message, event_id: EventId, answer: Rating) -> bool:
        """Store a person's rating of a reply; return False if the event belongs to no reply.

        Args:
            source: the reaction or message that rates.
            event_id: a message of the reply; for a rating message, also one of its prompt.
            answer: the rating.
        """
        exchange = await self._store.exchange(source.room_id, event_id)
        if exchange is None or not exchange.reply:
            return False
        if isinstance(source, Reaction) and event_id not in exchange.reply:
            return False
        await self._opinions.rate(source, exchange.prompt[0], answer, self._clock.now())
        self._health.opinion_given("thumb" if isinstance(source, Reaction) else "word")
        log.info("reply rated")
        return True

    async def comment(self, comment: Comment) -> bool:
        """Store a comment that replies to a poll; return False if it is no poll about a reply."""
        ask = await self._opinions.poll(comment.prompt.room_id, comment.poll)
        if ask is None:
            return False
        await self.store_comment(comment.prompt.messages[0], ask.prompt)
        return True

    async def store_comment(self, source: Message, prompt: EventId | None) -> None:
        """Store a comment on the reply to `prompt`; None for a comment on no reply."""
        await self._opinions.comment(source, prompt, self._clock.now())
        self._health.opinion_given("comment")
        log.info("comment kept")

    async def amend(self, edit: Edit) -> None:
        """Replace a comment, or a rating in a word, with the text of its edit.

        If the edited message is no feedback command any more, and replies to no poll, its comment
        or rating becomes empty.
        """
        if not await self._opinions.is_opinion(edit.target):
            return
        name, argument = parse_command(edit.body) or ("", "")
        text, rating = "", None
        if name in COMMAND:
            text, rating = argument.strip(), rating_in(argument)
            too_long = len(text) > LONGEST_COMMENT
            text = "" if too_long or text.lower().partition(" ")[0] in SHARE else text
        elif not name and not await self._is_command(edit):
            text = edit.body
        await self._opinions.amend(replace(edit, body=text), rating, self._clock.now())

    async def _is_command(self, edit: Edit) -> bool:
        """Return whether the edited message was a command.

        Feedback in words is either a command or a reply to a poll of the bot.
        """
        room_id, target = edit.room_id, edit.target
        event: object = self._matrix.known.get(target)
        if event is None:  # an earlier process received it
            event = await retry_until_accepted(
                self._clock, partial(self._matrix.fetch, room_id, target)
            )
        if not isinstance(event, Message):  # it cannot be read: only the text of the edit is known
            return False
        quoted = event.replies_to
        return quoted is None or await self._opinions.poll(room_id, quoted) is None

    async def withdraw(self, redaction: Redaction) -> None:
        """Delete the vote, the thumb or the comment of a redacted event."""
        target = redaction.target
        await self._opinions.withdraw(target)
        exchange = await self._store.exchange(redaction.room_id, target)
        if exchange is not None and target in exchange.prompt[1:]:  # a later part of a prompt
            await self._opinions.withdraw(exchange.prompt[0])

    async def find_subject(self, prompt: Prompt) -> EventId | None:
        """Return the prompt whose reply a command is about: the one replied to, else the last."""
        quoted = prompt.messages[0].replies_to
        if quoted is None:
            return await self._opinions.last_answered(prompt.conversation)
        ask = await self._opinions.poll(prompt.room_id, quoted)
        if ask is not None:
            return ask.prompt
        exchange = await self._store.exchange(prompt.room_id, quoted)
        return exchange.prompt[0] if exchange is not None and exchange.reply else None

    async def share(self, source: Message, about: EventId | None, *, sure: bool) -> Shared:
        """Store the current text of a prompt and its reply, if the person confirms it.

        Only the sender of the prompt may share them. Nothing is stored if there is no reply, if
        it was redacted, or if it has only lines of the bot.

        Args:
            source: the command.
            about: a message of the prompt or of its reply; None for none.
            sure: whether the person confirms, after the explanation of what sharing means.

        Returns:
            The key of the sentence to send.
        """
        room_id = source.room_id
        exchange = None if about is None else await self._finished_exchange(room_id, about)
        if exchange is None or not exchange.reply:
            return "nothing to share"
        reply = await self._joined_text(room_id, exchange.reply, self._matrix.user_id)
        if reply is None or not reply.strip():
            return "nothing to share"
        if not sure:
            return "share how"
        prompt = await self._joined_text(room_id, exchange.prompt, source.sender)
        if prompt is None:
            return "not shared"
        await self._opinions.share(source, exchange.prompt[0], (prompt, reply), self._clock.now())
        log.info("exchange shared")
        return "shared"

    async def _finished_exchange(self, room_id: RoomId, event_id: EventId) -> Exchange | None:
        """Return a prompt and its reply; wait for the reply's end if it is being streamed."""
        exchange = await self._store.exchange(room_id, event_id)
        running = self._generations.of(room_id, exchange.prompt[0]) if exchange else None
        if running is None or not running.reply.visible:
            return exchange
        await running.done.wait()
        return await self._store.exchange(room_id, event_id)

    async def _joined_text(
        self, room_id: RoomId, event_ids: Sequence[EventId], sender: UserId
    ) -> str | None:
        """Return the joined text of messages; None if one was redacted or has another sender."""
        texts = []
        for event_id in event_ids:
            fetch = partial(self._matrix.fetch, room_id, event_id)
            one = await retry_until_accepted(self._clock, fetch, within=_PATIENCE)
            if not isinstance(one, Message) or one.sender != sender:
                return None
            texts.append(one.body)
        return "\n\n".join(texts)

    async def want_polls(self, scope: UserId | RoomId, *, wanted: bool) -> None:
        """Record whether a person, or the people of a room, want polls."""
        await self._opinions.want_polls(scope, wanted=wanted)
