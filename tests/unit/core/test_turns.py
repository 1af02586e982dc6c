from bot.core.events import EventId, Turn
from bot.core.turns import Said, build_turns
from tests.make import message


def test_the_request_is_system_prompt_then_earlier_turns_then_the_prompt() -> None:
    said = [
        Said(EventId("$1"), "Quelle heure ?", mine=False),
        Said(EventId("$2"), "Midi.", mine=True),
        Said(EventId("$3"), " ", mine=True),
        Said(EventId("$4"), "!aide", mine=False),
    ]

    turns = build_turns("Sobre.", said, message("Et \U000e0041demain\u202e ?"))

    assert turns == [
        Turn("system", "Sobre."),
        Turn("user", "Quelle heure ?"),
        Turn("assistant", "Midi."),
        Turn("user", "Et demain ?"),
    ]
