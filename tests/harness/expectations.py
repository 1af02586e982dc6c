"""What one sees of a talk with the bot: its replies and notices, and what the model is asked."""

import asyncio
from collections.abc import Awaitable, Callable

from bot.core.events import EventId, RoomId, UserId
from bot.core.markdown import UNFINISHED, render
from bot.i18n.texts import Texts
from bot.matrix.parse import MARKER, NOTICE_MARKER
from tests.harness.bot import Bot
from tests.harness.client_view import JSON, Seen
from tests.harness.model import ModelExchange, ScriptedModel
from tests.harness.person import Person

TEXTS = Texts("fr")
Turns = list[tuple[str, str]]

_POLL_SECONDS = 0.02


def said(key: str, **values: object) -> str:
    """Return the body of the bot's sentence of that key.

    A salon's welcome names the thumbs, unless the bot is set otherwise.
    """
    sentence = TEXTS(key, **values)
    if key.startswith("welcome salon"):
        sentence += f"  \n{TEXTS('welcome thumbs')}"
    return render(sentence).body


def answers(seen: Seen) -> list[EventId]:
    """Return the prompts that the message replies to, [] where the model has not written it."""
    marker = seen.content.get(MARKER)
    return [marker["prompt"], *marker.get("joined", [])] if marker else []


def replies(person: Person, room_id: RoomId) -> list[Seen]:
    """Return all that the model has written in the room."""
    return [seen for seen in person.messages(room_id) if answers(seen)]


def replies_to(person: Person, room_id: RoomId, prompt: EventId) -> list[Seen]:
    """Return what stands in the room as the model's reply to `prompt`."""
    return [seen for seen in replies(person, room_id) if prompt in answers(seen)]


async def reply(person: Person, room_id: RoomId, prompt: EventId, text: str) -> Seen:
    """Wait until the reply to `prompt` says `text`, in its only message."""
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
    """Wait until something of a reply to `prompt` stands in the room, and matches."""
    return await person.wait_for_message(
        room_id, lambda seen: prompt in answers(seen) and matches(seen), within=within
    )


async def notice(
    person: Person, room_id: RoomId, key: str, to: EventId | None = None, **values: object
) -> Seen:
    """Wait for the bot's notice of that key; `to` is what it answers, None for anything."""
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
    """Return what a message says, without the sign that more is to come."""
    return seen.body.removesuffix(UNFINISHED)


def related(seen: Seen) -> set[EventId]:
    """Return the events that a message names as what it relates to, or is about.

    Of what this person cannot read, there are none.
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
    """Return all that somebody has said in the room and that still stands."""
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
    """Open a salon, let all join, and wait for the bot's welcome."""
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
    """Return the last request whose last user turn holds the words."""
    return [one for one in model.exchanges if words in one.prompt][-1]


def turns(exchange: ModelExchange) -> Turns:
    """Return the roles and words of a request, without the system prompt."""
    found = [(turn["role"], turn["content"]) for turn in exchange.body["messages"]]
    return [turn for turn in found if turn[0] != "system"]


async def asked(model: ScriptedModel, words: str, count: int = 1) -> ModelExchange:
    """Wait until the model has been asked so often for an answer to these words."""

    def there() -> bool:
        return sum(words in one.prompt for one in model.exchanges) >= count

    await until(there)
    return request(model, words)


async def until(holds: Callable[[], bool | Awaitable[bool]], within: float = 20.0) -> None:
    """Wait until something holds that nobody tells of."""
    async with asyncio.timeout(within):
        while True:
            now = holds()
            if now if isinstance(now, bool) else await now:
                return
            await asyncio.sleep(_POLL_SECONDS)


async def on_the_homeserver(person: Person, room_id: RoomId, event_id: EventId) -> JSON:
    """Return the content of one event as the homeserver gives it to this person."""
    event = await person.event(room_id, event_id)
    content: JSON = event["content"]
    return content


async def heard(bot: Bot, event_id: EventId) -> None:
    """Wait until the bot has decided about an event."""
    words = ('"event": "decided"', f'"event_id": "{event_id}"')

    def decided() -> bool:
        lines = bot.log.read_text().splitlines()
        return any(all(word in line for word in words) for line in lines)

    await until(decided)
