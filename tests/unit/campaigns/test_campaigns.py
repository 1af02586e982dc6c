import asyncio
import sys
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from bot.core.campaigns import CLOSED, SCALE, Recipient
from bot.core.events import EventId, Message, Room, RoomId, UserId, Vote
from bot.core.outgoing import Anchor, Attachment, Notice, Outgoing, PreparedEvent
from bot.core.polls import Poll, PollAnswer, PollEnd
from bot.errors import Forbidden, HomeserverUnreachable, MatrixError, RateLimited
from bot.i18n.texts import speak
from bot.reporting.charts import PICTURE_SIZE
from tests.fakes.campaigns import FakeCampaigns
from tests.fakes.clock import HeldClock
from tests.fakes.story import Story
from tests.make import AGENT, COLLEAGUE, MIDNIGHT, ROOM, edit_event, message, redaction, vote

FR = speak("fr")
ADMIN_ROOM = RoomId("!admin:tchap.test")
SALON = RoomId("!salon:tchap.test")
HOUR, DAY = 3_600.0, 86_400.0
CHOICE = "name: n\nquestions:\n- question: Utile ?\n  answers: [Oui, Non]\n"
SEQUENCE = (
    "name: n\nmessage: Bonjour\nreminder_hours: 48\nquestions:\n"
    '- {question: "Utile ?", answers: [Oui, Non]}\n'
    '- {question: "Combien ?", type: scale}\n'
    '- {question: "Quoi ?", type: text}\n'
)
NEVER_QUIET = "quiet:\nper_minute: 600\n"


class Office(Story):
    """An admin room, in which the agent is obeyed, and direct messages that campaigns go to."""

    def __init__(self) -> None:
        self.held = HeldClock()
        super().__init__(self.held)
        self.policy = replace(self.policy, admins=frozenset({AGENT}))
        self.matrix.admin_room = ADMIN_ROOM
        self.matrix.people[ADMIN_ROOM] = {AGENT}
        self.typed = 0

    @property
    def ledger(self) -> FakeCampaigns:
        return self.store.campaigns

    def people(self, number: int) -> None:
        """Let so many more people have a direct message with the bot."""
        for each in range(number):
            room_id = RoomId(f"!room{each}:tchap.test")
            person = UserId(f"@agent{each}:tchap.test")
            self.matrix.others[room_id] = Room(room_id=room_id, direct=True, person=person)

    async def type(self, body: str, *, sender: UserId = AGENT) -> str:
        """Type something in the admin room, and return what the bot last said there."""
        self.typed += 1
        heard = replace(
            message(body, event_id=f"$typed{self.typed}", sender=sender), room_id=ADMIN_ROOM
        )
        self.matrix.hear(heard)
        await self.until(lambda: self.done(heard.event_id))
        said = [one for one in self.said(ADMIN_ROOM) if isinstance(one, Notice)]
        return said[-1].text if said else ""

    async def hear(self, event: Message | Vote) -> None:
        self.matrix.hear(event)
        await self.until(lambda: self.done(event.event_id))
        await self.settle()

    async def settle(self) -> None:
        await self.held.pass_time(0.0)

    def said(self, room_id: RoomId = ROOM) -> list[Outgoing]:
        """What the bot has sent to a room."""
        places = self.matrix.places
        return [one for key, one in self.matrix.sent if places[key] == room_id]

    def last(self, room_id: RoomId = ROOM) -> EventId:
        return [key for key, _ in self.matrix.sent if self.matrix.places[key] == room_id][-1]

    async def launch(self, definition: str) -> str:
        """Create and launch a campaign; return what the bot says."""
        await self.type(f"!sondage creer\n{definition}{NEVER_QUIET}")
        return await self.type("!sondage lancer n")

    def refuse(self, error: MatrixError, *rooms: RoomId) -> list[RoomId]:
        """Let sends to these rooms fail until the list is empty that is returned."""
        put, refused = self.matrix.put, list(rooms)

        async def fail(room_id: RoomId, wire: PreparedEvent, transaction: str) -> EventId:
            if room_id in refused:
                raise error
            return await put(room_id, wire, transaction)

        self.matrix.put = fail  # type: ignore[method-assign, assignment]  # for one story
        return refused

    async def cast_in(self, place: int, answer: str) -> None:
        """Vote in the message that was sent as that one of the room."""
        ids = [key for key, _ in self.matrix.sent if self.matrix.places[key] == ROOM]
        at = int(self.clock.now() * 1000)
        await self.hear(vote(answer, target=ids[place], event_id="$cast", timestamp=at))

    async def cast(self, answer: str, number: int, *, sender: UserId = AGENT) -> None:
        at = int(self.clock.now() * 1000) + number
        await self.hear(
            vote(answer, target=self.last(), event_id=f"$v{number}", timestamp=at, sender=sender)
        )


@pytest.fixture
def story() -> Office:
    return Office()


UTILE = Poll(
    question="Utile ?", answers=(PollAnswer("1", "Oui"), PollAnswer("2", "Non")), disclosed=False
)


async def test_a_sequence_goes_on_with_each_answer_and_ends_with_thanks(story: Office) -> None:
    async with story.run():
        await story.launch(SEQUENCE)
        await story.held.pass_time(1.0)
        assert story.said() == [Notice(text="Bonjour", notifies=True), UTILE]
        await story.cast("1", 1)
        await story.held.pass_time(1.0)
        assert story.said()[2:] == [Poll(question="Combien ?", answers=SCALE, disclosed=False)]
        await story.cast("7", 2)
        await story.held.pass_time(1.0)
        text = FR("campaign text", question="Quoi ?")
        assert story.said()[3:] == [Notice(text=text, asks=True)]
        await story.hear(
            replace(message("Des sources.", event_id="$said"), replies_to=story.last())
        )
        await story.held.pass_time(1.0)

    assert story.said()[4:] == [Notice(text=FR("thanks"))]
    assert story.model.requests == []


async def test_results_are_counted_in_the_admin_room(story: Office) -> None:
    story.people(3)
    async with story.run():
        assert await story.launch(SEQUENCE) == FR(
            "campaign launched", name="n", rooms="4 conversations"
        )
        await story.held.pass_time(1.0)
        await story.cast("1", 1)
        await story.held.pass_time(1.0)
        await story.cast("7", 2)
        await story.held.pass_time(1.0)
        await story.hear(replace(message("Mieux.", event_id="$s"), replies_to=story.last()))
        told = await story.type("!sondage resultats n")

    progress = FR(
        "campaign progress",
        name="n",
        state=FR("campaign running"),
        rooms="4 conversations",
        reached=4,
        declined=0,
        answered=1,
        rate=25,
    )
    assert told == progress
    words = [one.text for one in story.said(ADMIN_ROOM) if isinstance(one, Notice)]
    useful, number, missing = (one for one in words if one.startswith("**"))
    assert FR("campaign answer", answer="Oui", n=1, part=100) in useful
    assert FR("campaign answer", answer="7", n=1, part=100) in number
    assert FR("campaign texts", n=1) in missing
    assert not [one for one in words if "Mieux" in one]


async def test_nobody_else_is_obeyed(story: Office) -> None:
    async with story.run():
        story.matrix.hear(
            replace(
                message(f"!sondage creer\n{CHOICE}", event_id="$x", sender=COLLEAGUE),
                room_id=ADMIN_ROOM,
            )
        )
        await story.hear(message(f"!sondage creer\n{CHOICE}", event_id="$y"))

    assert story.ledger.all == {}
    assert story.said(ADMIN_ROOM) == []


async def test_a_malformed_campaign_is_told_by_line_and_field_and_not_kept(story: Office) -> None:
    async with story.run():
        told = await story.type("!sondage creer\n```yaml\nname: n\nquestion: x\n```")

    faults = [
        FR("campaign fault", line=2, field="question", reason=FR("campaign fault unknown")),
    ]
    assert told == FR("campaign malformed", faults="\n".join(faults))
    assert story.ledger.all == {}


async def test_a_campaign_that_nobody_matches_says_so_and_sends_nothing(story: Office) -> None:
    definition = f"{CHOICE}audience: {{domains: [nowhere.test]}}\n"
    async with story.run():
        made = await story.type(f"!sondage creer {definition}")
        launched = await story.type("!sondage lancer n")

    assert made == launched == FR("campaign for nobody", name="n")
    assert story.ledger.all["n"].state == "draft"


async def test_a_preview_shows_all_and_counts_nothing(story: Office) -> None:
    async with story.run():
        await story.type(f"!sondage creer\n{SEQUENCE}")
        await story.type("!sondage apercu n")

    shown = story.said(ADMIN_ROOM)[1:-1]
    assert shown == [
        Notice(text="Bonjour", notifies=True),
        UTILE,
        Poll(question="Combien ?", answers=SCALE, disclosed=False),
        Notice(text=FR("campaign text", question="Quoi ?"), asks=True),
    ]
    assert story.said() == []
    assert story.ledger.asks == {}


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("!sondage lancer x", "campaign unknown"),
        ("!sondage apercu x", "campaign unknown"),
        ("!sondage resultats x", "campaign unknown"),
        ("!sondage cloturer x", "campaign not running"),
    ],
)
async def test_what_there_is_not_is_told(story: Office, typed: str, key: str) -> None:
    async with story.run():
        assert await story.type(typed) == FR(key, name="x")
        listed = await story.type("!sondage")

    assert listed.startswith(FR("campaign how"))


async def test_a_campaign_keeps_its_pace(story: Office) -> None:
    story.people(19)
    async with story.run():
        await story.type(f"!sondage creer\n{CHOICE}quiet:\nper_minute: 6\n")
        await story.type("!sondage lancer n")
        for minutes in (1, 2, 3):
            await story.held.pass_time(60.0)
            polls = [one for _, one in story.matrix.sent if isinstance(one, Poll)]
            assert len(polls) == min(6 * minutes + 1, 20)


async def test_nothing_is_sent_in_quiet_hours(story: Office) -> None:
    night = datetime(2026, 11, 27, 22, tzinfo=ZoneInfo("Europe/Paris"))
    story.held.time = night.timestamp() - MIDNIGHT
    async with story.run():
        await story.type(f"!sondage creer\n{CHOICE}")
        await story.type("!sondage lancer n")
        await story.held.pass_time(58 * HOUR)  # a Friday night and the weekend
        assert story.said() == []
        await story.held.pass_time(2 * HOUR)

    assert story.said() == [UTILE]


async def test_a_person_is_reminded_once(story: Office) -> None:
    async with story.run():
        await story.launch(f"{CHOICE}reminder_hours: 48\n")
        await story.held.pass_time(47 * HOUR)
        assert story.said() == [UTILE]
        await story.held.pass_time(10 * DAY)

    assert story.said() == [UTILE, Notice(text=FR("campaign reminder"))]


async def test_who_has_refused_polls_gets_an_announcement_and_no_question(story: Office) -> None:
    async with story.run():
        await story.hear(message("!sondages non"))
        said = len(story.said())
        await story.launch(CHOICE)
        await story.held.pass_time(1.0)
        assert story.said()[said:] == []
        await story.type(f"!annonce creer\nname: fin\nmessage: Au revoir\n{NEVER_QUIET}")
        await story.type("!annonce lancer fin")
        await story.held.pass_time(1.0)

    assert story.said()[said:] == [Notice(text="Au revoir", notifies=True)]
    assert story.ledger.all["n"].to[ROOM].declined


async def test_who_refuses_in_the_middle_is_asked_and_reminded_no_more(story: Office) -> None:
    async with story.run():
        await story.launch(SEQUENCE)
        await story.held.pass_time(1.0)
        await story.hear(message("!sondages non"))
        said = len(story.said())
        await story.cast_in(1, "1")
        await story.held.pass_time(10 * DAY)

    assert story.said()[said:] == []


async def test_who_has_answered_goes_on_before_others_are_begun_with(story: Office) -> None:
    story.people(30)
    async with story.run():
        await story.type(f"!sondage creer\n{SEQUENCE}quiet:\nper_minute: 1\n")
        await story.type("!sondage lancer n")
        while len(story.said()) < 2:
            await story.held.pass_time(60.0)
        await story.cast("1", 1)
        await story.held.pass_time(130.0)

    assert story.said()[2:] == [Poll(question="Combien ?", answers=SCALE, disclosed=False)]


async def test_a_redacted_answer_and_an_edited_one_count_as_they_stand(story: Office) -> None:
    async with story.run():
        await story.launch("name: n\nquestions:\n- {question: a, type: text}\n")
        await story.held.pass_time(1.0)
        await story.hear(replace(message("Mieux.", event_id="$said"), replies_to=story.last()))
        story.matrix.hear(edit_event("Pire.", target="$said"))
        await story.settle()
        assert story.ledger.said[EventId("$said")][5] == "Pire."
        story.matrix.hear(redaction("$said"))
        await story.settle()

    assert story.ledger.said == {}


def told(story: Office) -> list[str]:
    """What the admins were told of campaigns on their way, without the words of commands."""
    ids = {key for key, one in story.matrix.sent if isinstance(one, Notice) and one.to is None}
    return [
        one.text
        for key, one in story.matrix.sent
        if key in ids and isinstance(one, Notice) and story.matrix.places[key] == ADMIN_ROOM
    ]


async def test_the_admins_are_told_of_each_quarter_and_of_the_end(story: Office) -> None:
    story.people(39)
    async with story.run():
        await story.type(f"!sondage creer\n{CHOICE}quiet:\nper_minute: 5\n")
        await story.type("!sondage lancer n")
        await story.held.pass_time(10 * 60.0)
        assert [one.count("Atteintes") for one in told(story)] == [1] * 4
        reached = [int(one.split("Atteintes\u00a0: ")[1].split()[0]) for one in told(story)]
        assert reached == sorted(reached)
        for part, number in zip((10, 20, 30, 40), reached, strict=True):
            assert part <= number <= part + 6
        await story.type("!sondage cloturer n")
        await story.held.pass_time(10 * 60.0)

    assert len(told(story)) == 6
    assert FR("campaign closed") in told(story)[-2]
    assert told(story)[-1].startswith("**Utile ?**")


async def test_an_announcement_that_has_reached_everybody_is_closed(story: Office) -> None:
    story.people(2)
    async with story.run():
        await story.type(f"!annonce creer\nname: n\nmessage: Bonjour\n{NEVER_QUIET}")
        await story.type("!annonce lancer n")
        await story.held.pass_time(60.0)

    assert story.ledger.all["n"].state == "closed"
    assert FR("campaign closed") in told(story)[-1]


async def test_where_the_admins_cannot_be_told_the_campaign_goes_on(story: Office) -> None:
    story.people(3)
    async with story.run():
        await story.type(f"!annonce creer\nname: n\nmessage: Bonjour\n{NEVER_QUIET}")
        story.refuse(Forbidden("no"), ADMIN_ROOM)
        story.matrix.hear(replace(message("!annonce lancer n"), room_id=ADMIN_ROOM))
        await story.held.pass_time(60.0)

    assert story.ledger.all["n"].state == "closed"
    assert story.ledger.all["n"].told == CLOSED


async def test_the_admins_are_told_once_the_homeserver_is_there_again(story: Office) -> None:
    await story.ledger.draft("n", f"name: n\nmessage: Bonjour\n{NEVER_QUIET}", 0.0)
    await story.ledger.launch("n", [Recipient(ROOM, AGENT)], 0.0, None)
    away = story.refuse(HomeserverUnreachable("away"), ADMIN_ROOM)
    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(HOUR)
        assert story.ledger.all["n"].state == "closed"
        assert told(story) == []
        away.clear()
        await story.held.pass_time(HOUR)

    assert len(told(story)) == 1
    assert FR("campaign closed") in told(story)[0]


async def test_results_are_said_before_a_picture_of_each_question_and_not_in_its_caption(
    story: Office,
) -> None:
    async with story.run():
        await story.launch(SEQUENCE)
        await story.held.pass_time(1.0)
        await story.cast("1", 1)
        await story.type("!sondage resultats n")

    shown = next(one for one in story.said(ADMIN_ROOM) if isinstance(one, Attachment))
    place = story.said(ADMIN_ROOM).index(shown)
    first, *more = story.said(ADMIN_ROOM)[place - 1 : place] + story.said(ADMIN_ROOM)[place + 1 :]
    assert isinstance(first, Notice)
    assert "Utile ?" in first.text
    assert FR("campaign answer", answer="Oui", n=1, part=100) in first.text
    assert shown.name == "question-1.png"
    assert shown.data.startswith(b"\x89PNG")
    votes = FR("poll result", answer="Oui", n=1)
    assert shown.body == FR("campaign picture", question="Utile ?", answers=votes)
    assert [type(one) for one in more] == [Notice] * 3  # two questions without any, and the whole


MANY = """\
name: n
questions:
- question: Lequel ?
  answers: [Tous les jours, Parfois, Rarement, Jamais ou presque, Je ne sais pas]
"""


async def test_where_the_words_have_no_room_in_the_picture_their_numbers_are_said(
    story: Office,
) -> None:
    async with story.run():
        await story.launch(MANY)
        await story.held.pass_time(1.0)
        await story.cast("4", 1)
        await story.type("!sondage resultats n")

    said = [one.text for one in story.said(ADMIN_ROOM) if isinstance(one, Notice)]
    answer = FR("campaign answer", answer="4 – Jamais ou presque", n=1, part=100)  # a dash
    assert any(answer in one for one in said)


async def test_polls_of_a_campaign_that_nobody_can_read_any_more_are_ended(
    story: Office,
) -> None:
    async with story.run():
        await story.launch(CHOICE)
        await story.held.pass_time(1.0)
        poll = story.last()
        await story.cast("1", 1)
    story.ledger.all["n"].definition = "name: ["
    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(DAY)
        assert story.said()[2:] == []
        assert await story.type("!sondage cloturer n") == FR("campaign ends", name="n")
        await story.held.pass_time(60.0)

    assert story.said()[2:] == [PollEnd(poll, FR("campaign over"))]
    assert story.ledger.all["n"].state == "closed"
    assert FR("campaign closed") in told(story)[-1]


async def test_a_campaign_that_nobody_can_read_is_over_when_its_time_is(story: Office) -> None:
    await story.ledger.draft("n", "name: [", 0.0)
    now = story.clock.now()
    await story.ledger.launch("n", [Recipient(ROOM, AGENT)], now, now + HOUR)
    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(2 * HOUR)

    assert story.ledger.all["n"].state == "closed"
    assert story.said() == []


async def test_what_is_said_to_a_campaign_that_nobody_can_read_is_not_called_kept(
    story: Office,
) -> None:
    async with story.run():
        await story.launch("name: n\nquestions:\n- {question: a, type: text}\n")
        await story.held.pass_time(1.0)
        story.ledger.all["n"].definition = "name: ["
        await story.hear(replace(message("Mieux.", event_id="$said"), replies_to=story.last()))

    assert story.ledger.said == {}
    answered = story.said()[-1]
    assert isinstance(answered, Notice)
    assert answered.text == FR("campaign late")


@pytest.mark.parametrize("ended", ["by its admins", "by its time"])
async def test_a_poll_whose_sending_was_in_doubt_is_ended_with_its_campaign(
    story: Office, ended: str
) -> None:
    put = story.matrix.put
    story.held.time = datetime(2026, 11, 27, tzinfo=ZoneInfo("UTC")).timestamp() - MIDNIGHT

    async def lose(room_id: RoomId, wire: PreparedEvent, transaction: str) -> EventId:
        event_id = await put(room_id, wire, transaction)
        if room_id == ROOM and lost[0]:
            raise HomeserverUnreachable("the answer is lost")
        return event_id

    lost = [True]
    async with story.run():
        story.matrix.put = lose  # type: ignore[method-assign, assignment]  # for one story
        await story.launch(f"{CHOICE}ends: 2026-11-28\n")
        await story.held.pass_time(40.0)
        assert story.said() == [UTILE]
        assert story.ledger.asks == {}
        if ended == "by its admins":
            await story.type("!sondage cloturer n")
        await story.held.pass_time(2 * DAY)
        assert story.ledger.all["n"].state == "closing"
        at = int(story.held.time + MIDNIGHT - 2 * DAY) * 1000
        story.matrix.hear(vote("1", target=story.last(), timestamp=at))
        await story.settle()
        lost[0] = False
        await story.held.pass_time(HOUR)

    assert [type(one) for one in story.said()] == [Poll, Notice, PollEnd]  # with its thanks
    assert story.ledger.all["n"].state == "closed"


async def test_nothing_is_asked_any_more_once_the_admins_have_closed_it(story: Office) -> None:
    begin, closing = story.ledger.begin, asyncio.Event()

    async def late(*arguments: object, **more: object) -> object:
        closing.set()
        await story.ledger.close("n", story.clock.now())
        return await begin(*arguments, **more)  # type: ignore[arg-type]  # as the port's

    story.ledger.begin = late  # type: ignore[method-assign, assignment]  # for one story
    async with story.run():
        await story.launch(CHOICE)
        await story.held.pass_time(HOUR)

    assert closing.is_set()
    assert story.said() == []
    assert story.ledger.all["n"].state == "closed"
    assert not await story.ledger.is_begun(ROOM)


async def test_a_milestone_that_could_not_be_told_is_told_later(story: Office) -> None:
    await story.ledger.draft("n", f"{CHOICE}{NEVER_QUIET}", 0.0)
    await story.ledger.launch("n", [Recipient(ROOM, AGENT)], 0.0, None)
    away = story.refuse(HomeserverUnreachable("away"), ADMIN_ROOM)
    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(HOUR)
        assert told(story) == []
        away.clear()
        await story.held.pass_time(HOUR)

    assert len(told(story)) == 1


async def test_a_campaign_that_ends_in_quiet_hours_is_over_then(story: Office) -> None:
    friday = datetime(2026, 11, 27, 17, 59, tzinfo=ZoneInfo("Europe/Paris"))
    story.held.time = friday.timestamp() - MIDNIGHT
    definition = "name: n\nends: 2026-11-27 20:00\nquestions:\n- {question: a, type: text}\n"
    story.people(9)
    async with story.run():
        await story.type(f"!sondage creer\n{definition}per_minute: 1\n")
        await story.type("!sondage lancer n")
        await story.held.pass_time(3 * HOUR)

    assert story.ledger.all["n"].state == "closed"


async def test_two_campaigns_that_begin_together_ask_a_person_a_day_apart(story: Office) -> None:
    for name in ("n", "m"):
        definition = f"{CHOICE.replace('name: n', f'name: {name}')}{NEVER_QUIET}"
        await story.ledger.draft(name, definition, 0.0)
        await story.ledger.launch(name, [Recipient(ROOM, AGENT)], story.clock.now(), None)
    put = story.matrix.put

    async def slowly(room_id: RoomId, wire: PreparedEvent, transaction: str) -> EventId:
        await story.clock.sleep(1.0)
        return await put(room_id, wire, transaction)

    story.matrix.put = slowly  # type: ignore[method-assign, assignment]  # for one story
    async with story.run():
        story.matrix.hear()
        await story.held.pass_time(DAY - HOUR)
        assert story.said() == [UTILE]
        await story.held.pass_time(2 * HOUR)

    assert story.said() == [UTILE, UTILE]


async def test_a_salon_of_two_is_a_salon(story: Office) -> None:
    story.matrix.others[SALON] = Room(room_id=SALON, direct=False, person=COLLEAGUE)
    async with story.run():
        await story.launch(f"{SEQUENCE}audience: {{rooms: salons}}\n")
        await story.held.pass_time(10.0)

    root = next(key for key, place in story.matrix.places.items() if place == SALON)
    assert story.said(SALON)[1] == replace(UTILE, thread_root=root, latest=root)


async def test_a_limit_of_the_account_holds_for_every_room(story: Office) -> None:
    story.people(50)
    put, tries = story.matrix.put, [0]

    async def refuse(room_id: RoomId, wire: PreparedEvent, transaction: str) -> EventId:
        if room_id != ADMIN_ROOM:
            tries[0] += 1
            raise RateLimited("429", 120.0)
        return await put(room_id, wire, transaction)

    async with story.run():
        await story.type(f"!sondage creer\n{CHOICE}{NEVER_QUIET}")
        story.matrix.put = refuse  # type: ignore[method-assign, assignment]  # for one story
        await story.type("!sondage lancer n")
        await story.held.pass_time(10 * 60.0)

    assert tries[0] <= 6


async def test_a_definition_that_breaks_costs_no_other(story: Office) -> None:
    await story.ledger.draft("broken", "name: [", 0.0)
    await story.ledger.launch("broken", [Recipient(ROOM, AGENT)], 0.0, None)
    async with story.run() as running:
        story.matrix.hear()
        await story.launch(CHOICE)
        await story.held.pass_time(1.0)
        assert not running.done()

    assert story.said() == [UTILE]


async def test_two_campaigns_at_once_ask_a_person_a_day_apart(story: Office) -> None:
    async with story.run():
        await story.launch(CHOICE)
        await story.held.pass_time(1.0)
        await story.type(f"!sondage creer\n{CHOICE.replace('name: n', 'name: m')}{NEVER_QUIET}")
        await story.type("!sondage lancer m")
        await story.held.pass_time(DAY - HOUR)
        assert len(story.said()) == 1
        await story.held.pass_time(2 * HOUR)

    assert len(story.said()) == 2


async def test_in_a_salon_the_questions_stand_in_a_thread_of_their_own(story: Office) -> None:
    story.matrix.others[SALON] = Room(room_id=SALON, direct=False)
    async with story.run():
        await story.launch(f"{SEQUENCE}audience: {{rooms: salons}}\n")
        await story.held.pass_time(10.0)

    first, *questions = story.said(SALON)
    root = next(key for key, place in story.matrix.places.items() if place == SALON)
    assert first == Notice(text="Bonjour", notifies=True)
    assert questions == [
        replace(UTILE, thread_root=root, latest=root),
        Poll(question="Combien ?", answers=SCALE, disclosed=False, thread_root=root, latest=root),
        Notice(text=FR("campaign text", question="Quoi ?"), to=Anchor(root, root), asks=True),
    ]
    assert story.said() == []


async def test_polls_are_ended_when_the_campaign_is_and_later_votes_do_not_count(
    story: Office,
) -> None:
    async with story.run():
        await story.launch(CHOICE)
        await story.held.pass_time(1.0)
        poll = story.last()
        await story.cast("1", 1)
        assert await story.type("!sondage cloturer n") == FR("campaign ends", name="n")
        await story.held.pass_time(1.0)
        assert story.said()[2:] == [PollEnd(poll, f"{FR('campaign over')} Oui\u00a0: 1")]
        at = int(story.clock.now() * 1000)
        await story.hear(vote("2", target=poll, event_id="$late", timestamp=at))

    assert story.ledger.all["n"].state == "closed"
    progress = await story.ledger.results("n")
    assert progress is not None
    assert progress.answers == {"1": {"1": 1}}


async def test_a_poll_that_nobody_has_answered_gets_no_end_and_keeps_nobody_waiting(
    story: Office,
) -> None:
    story.people(3)
    async with story.run():
        await story.launch(CHOICE)  # two seconds apart
        await story.held.pass_time(10.0)
        answered = story.last(RoomId("!room1:tchap.test"))
        at = int(story.clock.now() * 1000)
        person = UserId("@agent1:tchap.test")
        said = vote("2", target=answered, event_id="$vote", timestamp=at, sender=person)
        await story.hear(replace(said, room_id=RoomId("!room1:tchap.test")))
        await story.type("!sondage cloturer n")
        await story.held.pass_time(2.0)

    ends = [one for _, one in story.matrix.sent if isinstance(one, PollEnd)]
    assert ends == [PollEnd(answered, f"{FR('campaign over')} Non\u00a0: 1")]
    assert story.ledger.all["n"].state == "closed"


@pytest.mark.parametrize(
    ("written", "first"),
    [
        ("message: Bonjour\n", Notice(text="Bonjour", notifies=True)),
        ("message: Bonjour\nnotify: true\n", Notice(text="Bonjour", notifies=True)),
        ("message: Bonjour\nnotify: false\n", Notice(text="Bonjour")),
        (
            "questions:\n- {question: 'Quoi ?', type: text}\n",
            Notice(text=FR("campaign text", question="Quoi ?"), asks=True, notifies=True),
        ),
        (
            "message: '@agent:tchap.test'\n",
            Notice(text="@agent:tchap.test", notifies=True),
        ),
    ],
)
async def test_an_announcement_reaches_people_unless_it_is_not_to(
    story: Office, written: str, first: Notice
) -> None:
    async with story.run():
        await story.launch(f"name: n\n{written}")
        await story.held.pass_time(HOUR)

    assert story.said() == [first]


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("name: [", FR("campaign fault line", line=1, reason=FR("campaign fault yaml"))),
        ("x" * 20_001, FR("campaign fault nowhere", reason=FR("campaign fault too long"))),
        (
            "name: n\nmessage: " + "x" * 4_001,
            FR("campaign fault", line=2, field="message", reason=FR("campaign fault too long")),
        ),
        (
            "name: n\nquestions:\n- {question: a, answers: [b]}",
            FR(
                "campaign fault",
                line=3,
                field="questions.0.answers",
                reason=FR("campaign fault too short"),
            ),
        ),
    ],
)
async def test_a_fault_is_told_by_as_much_of_its_place_as_it_has(
    story: Office, written: str, fault: str
) -> None:
    async with story.run():
        said = await story.type(f"!sondage creer\n{written}")

    assert fault in said


async def test_a_campaign_that_nobody_has_answered_is_over_at_once_also_at_night(
    story: Office,
) -> None:
    async with story.run():
        await story.type(f"!sondage creer\n{CHOICE}quiet: {{begin: 00:00, end: 23:59}}\n")
        await story.type("!sondage lancer n")
        await story.held.pass_time(2 * DAY)
        assert story.said() == [UTILE]
        await story.type("!sondage cloturer n")
        await story.held.pass_time(1.0)

    assert story.said() == [UTILE]
    assert story.ledger.all["n"].state == "closed"


@pytest.mark.parametrize("written", ['"> -"', '"[](https://matrix.to/#/@a:b.test)"', '"**"'])
async def test_an_announcement_that_nobody_could_read_is_not_kept(
    story: Office, written: str
) -> None:
    async with story.run():
        said = await story.type(f"!annonce creer\nname: n\nmessage: {written}\n")
        asked = await story.type(
            f"!sondage creer\nname: n\nquestions:\n- question: {written}\n  type: text\n"
        )

    assert FR("campaign fault unreadable") in said
    assert FR("campaign fault unreadable") in asked
    assert story.ledger.all == {}


async def test_a_campaign_closes_by_itself_when_its_time_is_over(story: Office) -> None:
    story.held.time = datetime(2026, 11, 27, tzinfo=ZoneInfo("UTC")).timestamp() - MIDNIGHT
    async with story.run():
        await story.launch(f"{CHOICE}ends: 2026-11-30\n")
        await story.held.pass_time(1.0)
        await story.cast("2", 1)
        await story.held.pass_time(4 * DAY)

    assert story.ledger.all["n"].state == "closed"
    assert isinstance(story.said()[-1], PollEnd)


async def test_a_room_that_refuses_keeps_no_other_from_being_asked(story: Office) -> None:
    story.people(2)
    async with story.run():
        await story.type(f"!sondage creer\n{CHOICE}{NEVER_QUIET}")
        await story.type("!sondage lancer n")
        story.matrix.failures = [Forbidden("no")]
        await story.held.pass_time(1.0)

    declined = [one.declined for one in story.ledger.all["n"].to.values()]
    assert sorted(declined) == [False, False, True]
    assert len([one for _, one in story.matrix.sent if isinstance(one, Poll)]) == 2


async def test_an_outage_only_delays_it(story: Office) -> None:
    async with story.run():
        await story.type(f"!sondage creer\n{CHOICE}{NEVER_QUIET}")
        await story.type("!sondage lancer n")
        story.matrix.failures = [HomeserverUnreachable("away")] * 10
        await story.held.pass_time(HOUR)

    assert story.said() == [UTILE]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("passage", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("port", "name"),
    [("matrix", "put"), ("campaigns", "sent"), ("campaigns", "begin"), ("campaigns", "due")],
)
async def test_wherever_a_process_ends_everybody_is_asked_once(
    story: Office, port: str, name: str, passage: int, *, after: bool
) -> None:
    story.people(2)
    await story.ledger.draft("n", f"{SEQUENCE}{NEVER_QUIET}", 0.0)
    story.matrix.admin_room = None
    story.policy = replace(story.policy, admins=frozenset())
    target = story.ledger if port == "campaigns" else story.matrix
    operation, over, passed = getattr(target, name), asyncio.Event(), [0]

    async def breaking(*arguments: object, **more: object) -> object:
        passed[0] += 1
        here = passed[0] == passage
        result = None if here and not after else await operation(*arguments, **more)
        if here:
            over.set()
            await asyncio.Event().wait()
        return result

    rooms = story.matrix.rooms()
    to = [Recipient(one.room_id, one.person) for one in rooms]
    await story.ledger.launch("n", to, story.clock.now(), None)
    setattr(target, name, breaking)
    for _ in range(2):
        async with story.run():
            story.matrix.hear()
            await story.held.pass_time(60.0)

    for room in rooms:
        assert story.said(room.room_id) == [Notice(text="Bonjour", notifies=True), UTILE]


async def test_statistics_are_said_before_their_picture_and_not_in_its_caption(
    story: Office,
) -> None:
    async with story.run():
        told = await story.type("!stats")

    said, shown = story.said(ADMIN_ROOM)
    assert isinstance(said, Notice)
    assert said.text == told
    assert told.startswith("Du ")
    assert isinstance(shown, Attachment)
    assert (shown.name, shown.size) == ("satisfaction.png", PICTURE_SIZE)
    assert shown.data.startswith(b"\x89PNG")
    assert shown.body.startswith("Courbe de la part de")


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_statistics_are_said_and_shown_once_in_that_order_over_a_crash(
    story: Office, sent: int
) -> None:
    put, left = story.matrix.put, sent
    reached = asyncio.Event()

    async def end(room_id: RoomId, wire: PreparedEvent, transaction: str) -> EventId:
        nonlocal left
        if left == 0:
            reached.set()
            await asyncio.Event().wait()
        left -= 1
        return await put(room_id, wire, transaction)

    story.matrix.put = end  # type: ignore[method-assign, assignment]  # for one story
    async with story.run():
        story.matrix.hear(replace(message("!stats", event_id="$stats"), room_id=ADMIN_ROOM))
        await story.until(lambda: reached.is_set() or story.done("$stats"))
    story.store.finished.discard(EventId("$stats"))
    story.matrix.put = put  # type: ignore[method-assign]  # for one story
    async with story.run():
        story.matrix.hear()
        await story.until(lambda: story.done("$stats"))

    assert [type(one) for one in story.said(ADMIN_ROOM)] == [Notice, Attachment]


async def test_the_figures_are_said_though_the_picture_cannot_be_drawn(
    story: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    async with story.run():
        await story.type("!stats")

    said, apology = story.said(ADMIN_ROOM)
    assert isinstance(said, Notice)
    assert said.text.startswith("Du ")
    assert isinstance(apology, Notice)
    assert apology.text == FR("bug")
