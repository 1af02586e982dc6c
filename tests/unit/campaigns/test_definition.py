from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.campaigns.definition import Malformed, read
from bot.core.campaigns import Audience, Campaign, CampaignQuestion, Quiet
from bot.core.polls import PollAnswer

PARIS = ZoneInfo("Europe/Paris")
WHOLE = """\
name: satisfaction-novembre
message: Bonjour, trois questions.
questions:
  - question: Est-il utile ?
    answers: [Tous les jours, Parfois]
  - question: De 0 à 10 ?
    type: scale
  - question: Que manque-t-il ?
    type: text
audience:
  rooms: all
  domains: [agent.test]
  active_days: 30
  sample: 200
begins: 2026-12-01 09:00
ends: 2026-12-05
quiet: {begin: 18:30, end: 08:00, weekend: false}
reminder_hours: 48
per_minute: 10
"""


def test_a_campaign_is_read_with_all_that_it_may_have() -> None:
    answers = (PollAnswer("1", "Tous les jours"), PollAnswer("2", "Parfois"))
    expected = Campaign(
        name="satisfaction-novembre",
        questions=(
            CampaignQuestion("1", "choice", "Est-il utile ?", answers),
            CampaignQuestion("2", "scale", "De 0 à 10 ?"),
            CampaignQuestion("3", "text", "Que manque-t-il ?"),
        ),
        message="Bonjour, trois questions.",
        audience=Audience("all", ("agent.test",), 30, 200),
        begins_at=datetime(2026, 12, 1, 9, tzinfo=PARIS).timestamp(),
        ends_at=datetime(2026, 12, 5, tzinfo=PARIS).timestamp(),
        quiet=Quiet(time(18, 30), time(8), PARIS, weekend=False),
        reminder_after=48 * 3600.0,
        per_minute=10.0,
    )

    assert read(WHOLE) == expected


def test_an_announcement_needs_a_name_and_a_message_alone() -> None:
    quiet = Quiet(time(18), time(9), PARIS, weekend=True)

    assert read("name: fin\nmessage: Au revoir") == Campaign(
        name="fin", questions=(), message="Au revoir", quiet=quiet
    )
    assert read("name: fin\nmessage: x\nquiet:").quiet is None


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("name: a: b", [(1, "", "yaml")]),
        ("name: [", [(1, "", "yaml")]),
        ("name: !!python/object:os.system x", [(1, "", "yaml")]),
        ("", [(0, "", "model_type")]),
        ("- 1", [(1, "", "model_type")]),
        ("message: x", [(1, "name", "missing")]),
        ("name: x", [(1, "", "nothing")]),
        ("name: Été\nmessage: x", [(1, "name", "string_pattern_mismatch")]),
        ("name: x\nmessage: x\nquestion: y", [(3, "question", "extra_forbidden")]),
        (
            "name: x\nquestions:\n  - question: a\n  - question: b\n    answers: [c]",
            [(3, "questions.0", "answers"), (5, "questions.1.answers", "too_short")],
        ),
        (
            "name: x\nquestions:\n- question: a\n  answers: [b, b]",
            [(3, "questions.0", "answers_twice")],
        ),
        (
            "name: x\nquestions:\n- {question: a, type: scale, answers: [b, c]}",
            [(3, "questions.0", "answers")],
        ),
        ("name: x\nmessage: x\ntimezone: Mars", [(3, "timezone", "timezone")]),
        ("name: x\nmessage: x\nbegins: 2026-12-02\nends: 2026-12-01", [(1, "", "ends")]),
        ("name: x\nmessage: x\nquiet: {begin: 25:00}", [(3, "quiet.begin", "time_parsing")]),
        ("name: x\nmessage: x\nquiet: {end: 9}", [(3, "quiet.end", "clock")]),
        ("name: x\nmessage: x\nquiet: {end: 09:00:30}", [(3, "quiet.end", "clock")]),
        ('name: x\nmessage: x\nquiet: {end: "09:00Z"}', [(3, "quiet.end", "clock")]),
        ("name: x\nmessage: x\nends: 9999-01-01", [(1, "", "latest")]),
        ("name: x\nmessage: x\nreminder_hours: 1e9", [(3, "reminder_hours", "less_than_equal")]),
        ("name: x\nmessage: x\nname: y", [(3, "name", "twice")]),
        ("name: x\nmessage: &a x\nquestions: [*a]", [(3, "", "yaml")]),
        ("name: x\n<<: &a {<<: [*a, *a]}", [(2, "", "yaml")]),
        ("name: !!timestamp x", [(0, "", "yaml")]),
        ("name: !!bool x", [(0, "", "yaml")]),
        ('name: x\nmessage: "\\x01"', [(2, "message", "characters")]),
        ("name: x\nmessage: x\nper_minute: 0", [(3, "per_minute", "greater_than")]),
        (f"name: x\nmessage: {'x' * 20_000}", [(0, "", "too_long")]),
    ],
)
def test_a_fault_is_told_by_its_line_and_field(
    text: str, faults: list[tuple[int, str, str]]
) -> None:
    with pytest.raises(Malformed) as raised:
        read(text)

    assert raised.value.faults == faults


@given(st.text() | st.text(alphabet="name: \n-[]{}&*!|>'\"#%@`x1"))
def test_whatever_is_typed_is_a_campaign_or_malformed(text: str) -> None:
    found: list[object] = []
    try:
        found.append(read(text).steps)
    except Malformed as error:
        found += error.faults

    assert found
    assert found != [0]
