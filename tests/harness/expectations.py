"""Expectations of tests: the bot's replies and notices in a room, and requests to the model."""

import asyncio
from collections.abc import Awaitable, Callable

from bot.core.events import EventId, RoomId, UserId
from bot.core.markdown import UNFINISHED, render
from bot.i18n.texts import Texts
from bot.matrix.parse import MARKER, NOTICE_MARKER
from tests.harness.bot import Bot
from tests.harness.client_view import Seen
from tests.harness.model import ModelExchange, ScriptedModel
from tests.harness.person import Person

TEXTS = Texts("fr")
Turns = list[tuple[str, str]]

_POLL_SECONDS = 0.02


def said(key: str, **values: object) -> str:
    """Return the body of the bot's sentence with that key.

    A salon's welcome names the thumbs, which is the default setting.
    """
    sentence = TEXTS(key, **values)
    if key.startswith("welcome salon"):
        sentence += f"  \n{TEXTS('welcome thumbs')}"
    return render(sentence).body


def answers(seen: Seen) -> list[EventId]:
    """Return the prompts that the message answers; [] if it has no text of the model."""
    marker = seen.content.get(MARKER)
    return [marker["prompt"], *marker.get("joined", [])] if marker else []


def replies(person: Person, room_id: RoomId) -> list[Seen]:
    """Return the messages with text of the model in the room."""
    return [seen for seen in person.messages(room_id) if answers(seen)]


def replies_to(person: Person, room_id: RoomId, prompt: EventId) -> list[Seen]:
    """Return the messages of the reply to `prompt`."""
    return [seen for seen in replies(person, room_id) if prompt in answers(seen)]


async def reply(person: Person, room_id: RoomId, prompt: EventId, text: str) -> Seen:
    """Wait until the only message of the reply to `prompt` has the text `text`."""
    body = render(text).body
    await begun(person, room_id, prompt, lambda seen: seen.body == body)
    [only] = replies_to(person, room_id, prompt)
    return only


async def begun(
    person: Person,
    room_id: RoomId,
    prompt: EventId,
    matches: Callable[[Seen], bool] = lambda _: True,
    *,
    within: float = 20.0,
) -> Seen:
    """Wait until a message of the reply to `prompt` is in the room and matches."""
    return await person.wait_for_message(
        room_id, lambda seen: prompt in answers(seen) and matches(seen), within=within
    )


async def notice(
    person: Person, room_id: RoomId, key: str, to: EventId | None = None, **values: object
) -> Seen:
    """Wait for the bot's notice with that key; `to` is the event it answers, None for any."""
    body = said(key, **values)
    return await person.wait_for_message(
        room_id,
        lambda seen: (
            seen.body == body
            and seen.content["msgtype"] == "m.notice"
            and (to is None or to in related(seen))
        ),
    )


def so_far(seen: Seen) -> str:
    """Return the text of a message, without the sign of an unfinished reply."""
    return seen.body.removesuffix(UNFINISHED)


def related(seen: Seen) -> set[EventId]:
    """Return the events that a message relates to or is about.

    The set is empty for a message that this person cannot read.
    """
    if not seen.versions:
        return set()
    content = seen.versions[0].content
    relation = content.get("m.relates_to", {})
    found = {relation.get("event_id"), relation.get("m.in_reply_to", {}).get("event_id")}
    for marker in (MARKER, NOTICE_MARKER):
        named = content.get(marker, {})
        found |= {named.get("prompt"), *named.get("joined", [])}
    return found - {None}


def spoken(person: Person, room_id: RoomId, sender: UserId) -> list[Seen]:
    """Return a user's messages in the room that are not redacted."""
    return [
        seen
        for seen in person.messages(room_id)
        if (seen.sender, seen.type) == (sender, "m.room.message") and not seen.redacted
    ]


async def talk(person: Person, bot: UserId, *, encrypted: bool = True) -> RoomId:
    """Open a direct message with the bot, and wait for its welcome."""
    room_id = await person.open_direct_message(bot, encrypted=encrypted)
    await notice(person, room_id, "welcome")
    return room_id


async def meet(
    opener: Person, bot: UserId, *others: Person, encrypted: bool = True, public: bool = False
) -> RoomId:
    """Open a salon that everybody joins, and wait for the bot's welcome."""
    invite = [bot, *(other.user_id for other in others)]
    room_id = await opener.create_room("Bureau", invite, encrypted=encrypted, public=public)
    for other in others:
        await other.join(room_id)
    for one in (opener, *others):
        for other in others:
            await one.wait_joined(room_id, other.user_id)
        await one.wait_joined(room_id, bot)
    welcomes = [render(TEXTS(key)).body for key in ("welcome salon", "welcome salon inline")]
    await opener.wait_for_message(room_id, lambda seen: any(one in seen.body for one in welcomes))
    return room_id


def request(model: ScriptedModel, words: str) -> ModelExchange:
    """Return the last request whose last user turn contains `words`."""
    return [one for one in model.exchanges if words in one.prompt][-1]


def turns(exchange: ModelExchange) -> Turns:
    """Return the roles and texts of a request, without the system prompt."""
    found = [(turn["role"], turn["content"]) for turn in exchange.body["messages"]]
    return [turn for turn in found if turn[0] != "system"]


async def asked(model: ScriptedModel, words: str, count: int = 1) -> ModelExchange:
    """Wait until the model has got that many requests with `words`; return the last one."""

    def there() -> bool:
        return sum(words in one.prompt for one in model.exchanges) >= count

    await until(there)
    return request(model, words)


async def until(holds: Callable[[], bool | Awaitable[bool]], within: float = 20.0) -> None:
    """Poll a condition until it holds; only for conditions without an event."""
    async with asyncio.timeout(within):
        while True:
            now = holds()
            if now if isinstance(now, bool) else await now:
                return
            await asyncio.sleep(_POLL_SECONDS)


async def heard(bot: Bot, event_id: EventId) -> None:
    """Wait until the bot has decided about an event."""
    words = ('"event": "decided"', f'"event_id": "{event_id}"')

    def decided() -> bool:
        lines = bot.log.read_text().splitlines()
        return any(all(word in line for word in words) for line in lines)

    await until(decided)
