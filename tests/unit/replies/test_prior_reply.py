import pytest

from bot.core.events import EventId
from bot.core.outgoing import SentReply, SentSince
from bot.core.reply_state import Found
from bot.replies.prior_reply import match_prior_messages

PROMPT, JOINED, OTHER = EventId("$prompt"), EventId("$joined"), EventId("$other")


def part(number: int, *, claim: int = 1, final: bool = False, body: str = "Bonjour") -> SentReply:
    return SentReply(
        event_id=EventId(f"$part{number}"), answers=(PROMPT,), claim=claim, final=final, body=body
    )


@pytest.mark.parametrize(
    ("about", "found"),
    [
        ((), Found.NOTHING),
        ((SentReply(event_id=EventId("$notice"), body="Un instant."),), Found.NOTHING),
        ((part(0),), Found.PART),
        ((part(0, final=True),), Found.WHOLE),
        ((part(0), part(1, final=True)), Found.WHOLE),
        ((part(0, final=True), part(1)), Found.PART),
        ((part(0, claim=2), part(1, final=True)), Found.PART),  # a part of an older text
        ((part(0, final=True, body=" "),), Found.WORDLESS),
        ((part(0, body=""), part(1, final=True)), Found.WHOLE),
        (
            (SentReply(event_id=EventId("$part0"), answers=(OTHER, PROMPT), claim=1, final=True),),
            Found.NOTHING,
        ),
    ],
)
def test_a_reply_is_whole_if_its_last_part_is_final_and_of_one_text_with_the_first(
    about: tuple[SentReply, ...], found: Found
) -> None:
    assert match_prior_messages(SentSince(about), PROMPT).found is found


def test_messages_are_sorted_by_what_they_are_about() -> None:
    joined = SentReply(event_id=EventId("$part1"), answers=(PROMPT, JOINED), claim=1, final=True)
    notice = SentReply(event_id=EventId("$notice"), body="Un instant.")
    other = SentReply(event_id=EventId("$other part"), answers=(OTHER,), claim=1)

    prior = match_prior_messages(SentSince((part(0), notice, other, joined)), PROMPT)

    assert prior.event_ids == ["$part0", "$part1"]
    assert prior.notices == ("$notice",)
    assert prior.answered == (PROMPT, JOINED)
    assert not prior.joined_to


def test_a_prompt_that_was_joined_to_another_has_no_reply_of_its_own() -> None:
    joined = SentReply(event_id=EventId("$part0"), answers=(PROMPT, JOINED), claim=1, final=True)

    prior = match_prior_messages(SentSince((joined,)), JOINED)

    assert prior.joined_to == (PROMPT,)
    assert not prior.reply
