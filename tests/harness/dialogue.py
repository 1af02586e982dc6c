"""A conversation between an agent and the bot: prompts, and each step of the replies."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlencode

from bot.core.events import EventId, RoomId, UserId
from bot.core.polls import POLL
from bot.matrix.cross_signing import PublicIdentity
from bot.matrix.parse import TEXT
from tests.harness.bot import Bot
from tests.harness.client_view import Seen
from tests.harness.expectations import related
from tests.harness.nio_person import NioPerson
from tests.harness.person import Refused

_POLL_SECONDS = 0.02
_SYNC_SECONDS = 20.0
_ANSWER_SECONDS = 180.0
_QUESTION_SECONDS = 1.0  # seconds; a poll comes directly after its reply


class Unanswered(Exception):
    """A prompt got no text of the model; the message is the text that the agent reads instead."""


@dataclass(frozen=True, slots=True)
class Step:
    """One state of a growing reply.

    Attributes:
        t: seconds from the sending of the prompt until the agent's client could read this state.
    """

    t: float
    kind: Literal["first", "edit", "final"]
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A poll of the bot.

    Attributes:
        answers: texts of the answers, by their ids.
    """

    event_id: EventId
    text: str
    answers: dict[str, str]


class Agent(NioPerson):
    """The person who sends prompts."""

    @property
    def password(self) -> str:
        """The password, for other clients of this person."""
        return self._password

    async def exclude_unsigned(self, user_id: UserId) -> None:
        """Exclude a user's devices unless their owner has signed them (MSC4153).

        Raises:
            Refused: a device is not signed.
        """
        shown = await self._call("POST", "/keys/query", {"device_keys": {user_id: []}})
        identity = PublicIdentity.of(shown, user_id)
        unsigned = [one for one in identity.devices if not identity.has_signed(one)]
        if unsigned or not identity.devices:
            raise Refused(f"not signed by {user_id}: {', '.join(unsigned) or 'no device at all'}")

    async def catch_up(self, room_id: RoomId, sender: UserId) -> None:
        """Wait until this client shows the last message or edit that `sender` has sent so far."""
        of_sender = json.dumps({"types": ["m.room.encrypted"], "senders": [sender]})
        query = urlencode({"dir": "b", "limit": 1, "filter": of_sender})
        page = await self._call("GET", f"/rooms/{quote(room_id)}/messages?{query}", {})
        last = page["chunk"][0]["event_id"]

        def look() -> bool | None:
            shown = (version for seen in self.messages(room_id) for version in seen.versions)
            return any(version.event_id == last for version in shown) or None

        await self.observed.until(look, _SYNC_SECONDS, lambda: f"{last} cannot be read")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """An encrypted direct message with the bot, after its welcome.

    Attributes:
        welcome: text of the welcome.
        identity: status of the bot's cross-signing identity, each line by its label.
    """

    agent: Agent
    bot: Bot
    room_id: RoomId
    welcome: str
    identity: dict[str, str]

    async def ask(self, prompt: str) -> AsyncIterator[Step]:
        """Send a prompt, and yield the versions of its reply, the last one as "final".

        Raises:
            Unanswered: a notice came instead of a reply, or the homeserver refused the prompt.
            TimeoutError: no reply came, or only a part of it.
        """
        asked = time.monotonic()
        try:
            event_id = await self.agent.send(self.room_id, prompt)
        except Refused as error:
            raise Unanswered(f"The homeserver refused the message: {error}") from error
        shown = 0
        while True:
            complete = self._is_complete(event_id)
            if complete:  # every version is on the homeserver, and is shown below
                await self.agent.catch_up(self.room_id, self.bot.user_id)
            versions = (version for seen in self._answers(event_id) for version in seen.versions)
            for version in sorted(versions, key=lambda version: version.at)[shown:]:
                text = str(version.content["body"])
                yield Step(version.at - asked, "edit" if shown else "first", text)
                shown += 1
            if complete:
                break
            if time.monotonic() - asked > _ANSWER_SECONDS:
                raise TimeoutError(f"No complete answer came within {_ANSWER_SECONDS:.0f} s.")
            await asyncio.sleep(_POLL_SECONDS)
        whole = "\n\n".join(seen.body for seen in self._answers(event_id))
        yield Step(time.monotonic() - asked, "final", whole)

    async def question(self, after: Question | None = None) -> Question | None:
        """Return the poll that follows a reply or a vote; None if none comes soon.

        Args:
            after: the last poll that was answered or skipped.
        """

        def look() -> Question | None:
            polls = [
                one
                for one in self.agent.messages(self.room_id)
                if (one.sender, one.type) == (self.bot.user_id, POLL) and one.content
            ]
            known = after is not None and polls and polls[-1].event_id == after.event_id
            return _question(polls[-1]) if polls and not known else None

        try:
            return await self.agent.observed.until(look, _QUESTION_SECONDS, str)
        except TimeoutError:
            return None

    async def vote(self, question: Question, answer: str) -> str:
        """Vote, and return the thanks; "" if another question follows."""
        said = len(self.agent.messages(self.room_id))
        await self.agent.vote(self.room_id, question.event_id, answer)

        def look() -> str | None:
            for one in self.agent.messages(self.room_id)[said:]:
                if one.sender == self.bot.user_id and one.content:
                    return "" if one.type == POLL else one.body
            return None

        return await self.agent.observed.until(
            look, _SYNC_SECONDS, lambda: "no word came for the vote"
        )

    def _is_complete(self, prompt: EventId) -> bool:
        """Return whether the log has the end of the reply, which no version of it shows."""
        said = ('"event": "reply sent"', f'"event_id": "{prompt}"')
        lines = self.bot.log.read_text().splitlines()
        return any(all(words in line for words in said) for line in lines)

    def _answers(self, prompt: EventId) -> list[Seen]:
        """Return the reply's messages so far; Unanswered if a notice came instead."""
        answers = [
            seen
            for seen in self.agent.messages(self.room_id)
            if (seen.sender, seen.type) == (self.bot.user_id, "m.room.message")
            and prompt in related(seen)
        ]
        for seen in answers:
            if seen.content.get("msgtype") == "m.notice":
                raise Unanswered(seen.body)
        return answers


def _question(poll: Seen) -> Question:
    start = poll.content[POLL]
    answers = {one["id"]: one[TEXT] for one in start["answers"]}
    return Question(poll.event_id, start["question"][TEXT], answers)
