from dataclasses import replace

import pytest

from bot.commands.registry import About
from bot.core.events import EventId, Joined, Message, RoomId
from bot.core.model_catalog import Catalogue
from bot.core.outgoing import Notice, Reply
from bot.i18n.texts import Language, speak
from bot.ports.ledger import Choices
from tests.fakes.model import LARGE, SMALL
from tests.fakes.story import Story
from tests.make import BOT, COLLEAGUE, ROOM, message, prompt

FR, EN = speak("fr"), speak("en")


class CommandStory(Story):
    """A room in which commands are typed."""

    def __init__(self) -> None:
        super().__init__()
        self.typed = 0

    async def type(self, body: str, **values: str) -> str:
        """Type something, and return what the bot then says."""
        self.typed += 1
        return await self.hear(message(body, event_id=f"${self.typed}", **values))  # type: ignore[arg-type]  # ids

    async def hear(self, event: Message) -> str:
        self.matrix.hear(event)
        await self.until(lambda: event.event_id in self.store.finished)
        return self.shown[-1]

    async def mention(self, body: str, **values: str) -> str:
        """The same, with a mention of the bot."""
        self.typed += 1
        event = message(body, event_id=f"${self.typed}", **values)  # type: ignore[arg-type]  # ids
        return await self.hear(replace(event, mentions=frozenset({BOT})))


@pytest.fixture
def desk() -> CommandStory:
    return CommandStory()


@pytest.fixture
def salon(desk: CommandStory) -> CommandStory:
    desk.matrix.direct = False
    return desk


def about(language: Language) -> str:
    texts = speak(language)
    return "  \n".join(
        [
            texts("about", version="1.2.3", label="Petit modèle"),
            texts("about status", url="https://status.test"),
            texts("about contact", contact="équipe@tchap.test"),
        ]
    )


@pytest.mark.parametrize(
    ("french", "english", "said"),
    [
        ("!aide", "!help", FR("help")),
        ("!aide tout", "!help all", FR("help all")),
        ("!AIDE  Tout", "!Help ALL ", FR("help all")),
        ("!nouveau", "!new", FR("new conversation")),
        ("!stop", "!stop", FR("nothing to stop")),
        ("!refaire", "!redo", FR("nothing to redo")),
        ("!modele large", "!model large", FR("model chosen", label="Grand modèle")),
        ("!modèle large", "!model\nlarge", FR("model chosen", label="Grand modèle")),
        ("!langue français", "!language french", FR("language chosen")),
        ("!langue anglais", "!language english", EN("language chosen")),
        ("!langue klingon", "!language", FR("language not known")),
        ("!sources", "!sources", FR("no sources")),
        ("!apropos", "!about", about("fr")),
    ],
)
async def test_each_command_has_a_french_name_and_an_english_one(
    french: str, english: str, said: str
) -> None:
    for body in (french, english):
        desk = CommandStory()
        async with desk.run():
            assert await desk.type(body) == said
        [(_, notice)] = desk.matrix.sent
        assert notice == Notice(text=said, to=prompt(message(body, event_id="$1")))
        assert desk.model.requests == []


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("aid", "`!aide`, `!avis`"),
        ("nouvau", "`!nouveau`"),
        ("langage", "`!langue`, `!sondages`"),
        ("modle", "`!modele`"),
        ("helo", "`!aide`, `!refaire`"),  # in the language spoken here
        ("xyzzy", None),
    ],
)
async def test_a_command_that_does_not_exist_is_answered_with_the_nearest(
    desk: CommandStory, typed: str, nearest: str | None
) -> None:
    async with desk.run():
        said = await desk.type(f"!{typed} moi")

    sentences = [FR("command unknown", name=typed)]
    if nearest is not None:
        sentences.append(FR("command nearest", commands=nearest))
    assert said == " ".join(sentences)


async def test_a_command_that_does_not_exist_is_answered_however_long_it_is(
    desk: CommandStory,
) -> None:
    async with desk.run():
        said = await desk.type("!" + "a" * 60_000)

    assert len(said) < 1000


async def test_a_model_that_does_not_exist_is_answered_however_long_its_name(
    desk: CommandStory,
) -> None:
    async with desk.run():
        said = await desk.type("!modele " + "a" * 60_000)

    assert len(said) < 1000


async def test_the_models_are_listed_with_the_one_in_use(desk: CommandStory) -> None:
    async with desk.run():
        first = await desk.type("!modele")
        await desk.type("!modele large")
        second = await desk.type("!modele")

    small = {"number": 1, "label": "Petit modèle", "key": "small"}
    large = {"number": 2, "label": "Grand modèle", "key": "large"}
    assert first.splitlines() == [
        FR("models"),
        "",
        FR("model item chosen", **small),
        FR("model item", **large),
    ]
    assert second.splitlines()[2:] == [
        FR("model item", **small),
        FR("model item chosen", **large),
    ]


@pytest.mark.parametrize("name", ["large", "LARGE", "Grand modele", "2", "vendor/large"])
async def test_a_model_is_chosen_by_any_of_its_names_for_what_is_asked_next(
    desk: CommandStory, name: str
) -> None:
    async with desk.run():
        await desk.type("Bonjour")
        await desk.type(f"!modele {name}")
        await desk.type("Bonsoir")

    assert desk.model.asked == ["small", "vendor/large"]
    models = [sent.model for _, sent in desk.matrix.sent if isinstance(sent, Reply)]
    assert models == ["small", "vendor/large"]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("larg", "`!modele large`"), ("zzz", "`!modele small`, `!modele large`")],
)
async def test_a_model_that_is_not_there_is_answered_with_those_that_are(
    desk: CommandStory, name: str, nearest: str
) -> None:
    async with desk.run():
        said = await desk.type(f"!modele {name}")

    assert said == FR("model not known", name=name, nearest=nearest)
    assert desk.store.chosen == {}


async def test_where_there_is_one_model_it_is_named(desk: CommandStory) -> None:
    desk.catalogue = Catalogue([SMALL])
    async with desk.run():
        assert await desk.type("!modele") == FR("one model", label="Petit modèle")
        assert await desk.type("!modele 1") == FR("model chosen", label="Petit modèle")


async def test_a_model_that_the_operator_has_taken_away_gives_way_to_the_default(
    desk: CommandStory,
) -> None:
    desk.store.chosen[prompt().conversation] = Choices(model="gone")
    async with desk.run():
        await desk.type("Bonjour")

    assert desk.model.asked == ["small"]


async def test_what_is_chosen_in_a_thread_holds_there_alone_and_over_a_restart(
    desk: CommandStory,
) -> None:
    async with desk.run():
        await desk.type("!modele large", thread_root="$root")
        await desk.type("!langue en", thread_root="$root")
    async with desk.run():
        assert await desk.type("!aide", thread_root="$root") == EN("help")
        assert await desk.type("!aide") == FR("help")
        await desk.type("Bonjour", thread_root="$root")
        await desk.type("Bonjour")

    assert desk.model.asked == ["vendor/large", "small"]


async def test_what_is_chosen_in_the_main_timeline_holds_in_its_threads(
    desk: CommandStory,
) -> None:
    async with desk.run():
        await desk.type("!modele large")
        await desk.type("!langue en")
        assert await desk.type("!aide", thread_root="$root") == EN("help")
        await desk.type("Bonjour", thread_root="$root")
        await desk.type("!modele small", thread_root="$root")
        await desk.type("Bonjour", thread_root="$root")
        await desk.type("Bonjour")

    assert desk.model.asked == ["vendor/large", "small", "vendor/large"]


async def test_what_was_chosen_holds_on_in_the_room_that_replaces_this_one(
    desk: CommandStory,
) -> None:
    old = RoomId("!old:tchap.test")
    desk.matrix.predecessors = {ROOM: old}
    desk.store.chosen[replace(prompt().conversation, room_id=old)] = Choices(LARGE.id, "en")
    async with desk.run():
        desk.matrix.hear(Joined(EventId("$join"), ROOM))
        await desk.until(lambda: desk.done("$join"))
        assert desk.shown == [EN("welcome")]
        await desk.type("Bonjour")

    assert desk.model.asked == [LARGE.id]


async def test_every_sentence_of_the_bot_is_in_the_language_chosen(desk: CommandStory) -> None:
    desk.policy = replace(desk.policy, age_limit=3600.0)
    now = int(desk.clock.now() * 1000)
    async with desk.run():
        await desk.hear(replace(message("!langue en", event_id="$a"), timestamp=now))
        image = message(event_id="$b", msgtype="m.image")
        assert await desk.hear(replace(image, timestamp=now)) == EN("unreadable message")
        old = replace(message(event_id="$c"), timestamp=0)
        assert await desk.hear(old) == EN("expired", hours=1)
        desk.model.script = (ZeroDivisionError(),)
        late = replace(message(event_id="$d"), timestamp=now)
        assert await desk.hear(late) == EN("bug")


async def test_a_command_is_answered_once_over_a_crash(desk: CommandStory) -> None:
    async with desk.run():
        await desk.type("!modele large")
    desk.store.finished.clear()  # as if the process had died before it noted that all is done

    async with desk.run():
        desk.matrix.hear()
        await desk.until(lambda: desk.done("$1"))

    assert desk.shown == [FR("model chosen", label="Grand modèle")]


# In a salon.


@pytest.mark.parametrize("command", ["!modele large", "!langue en"])
@pytest.mark.parametrize(("level", "allowed"), [(0, False), (49, False), (50, True), (100, True)])
async def test_for_all_of_a_salon_its_moderators_choose(
    salon: CommandStory,
    command: str,
    level: float,
    allowed: bool,  # noqa: FBT001  # a table's column
) -> None:
    salon.matrix.levels = {COLLEAGUE: level}
    async with salon.run():
        said = await salon.mention(command, sender=COLLEAGUE)

    assert (said != FR("moderators only")) == allowed
    assert bool(salon.store.chosen) == allowed


@pytest.mark.parametrize("command", ["!modele", "!langue", "!modele nada", "!aide", "!apropos"])
async def test_in_a_salon_anybody_may_ask(salon: CommandStory, command: str) -> None:
    async with salon.run():
        assert await salon.mention(command) != FR("moderators only")


async def test_in_the_bot_s_threads_of_a_salon_anybody_chooses(salon: CommandStory) -> None:
    async with salon.run():
        await salon.mention("Bonjour")
        await salon.type("!modele large", thread_root="$1", sender=COLLEAGUE)
        await salon.type("!langue en", thread_root="$1", sender=COLLEAGUE)
        assert await salon.type("!aide", thread_root="$1") == EN("help")
        assert await salon.mention("!aide") == FR("help")
        await salon.type("Et puis ?", thread_root="$1")
        await salon.mention("Ailleurs")

    assert salon.model.asked == ["small", "vendor/large", "small"]


async def test_in_a_salon_only_a_command_for_the_bot_is_heeded(salon: CommandStory) -> None:
    async with salon.run():
        salon.matrix.hear(message("!aide", event_id="$1"))
        salon.matrix.hear(message("!aide", event_id="$2", thread_root="$theirs"))
        salon.typed = 2
        await salon.mention("!apropos")

    assert salon.store.events.keys() == {"$3"}


# A new conversation.


async def test_a_new_conversation_leaves_what_came_before(desk: CommandStory) -> None:
    async with desk.run():
        await desk.type("Je m'appelle Ada.")
        await desk.type("!nouveau")
        await desk.type("Qui suis-je ?")
        await desk.type("Vraiment ?")

    assert [[turn.text for turn in turns][1:] for turns in desk.model.requests] == [
        ["Je m'appelle Ada."],
        ["Qui suis-je ?"],
        ["Qui suis-je ?", "Bonjour.", "Vraiment ?"],
    ]


async def test_what_the_operator_has_not_said_of_the_service_is_left_out(
    desk: CommandStory,
) -> None:
    desk.about = About("1.2.3")
    async with desk.run():
        said = await desk.type("!apropos")

    assert said == FR("about", version="1.2.3", label="Petit modèle")
