from bot.core.events import EventId
from bot.core.outgoing import transaction_id

PROMPT = EventId("$prompt")


def test_the_same_send_has_the_same_id_in_every_version() -> None:
    one = transaction_id("DEV", PROMPT, "final", part=0, claim=1)

    assert one == "f5a220671dc8e901fac4fc816ffe4520"


def test_sends_that_differ_in_anything_have_different_ids() -> None:
    ids = {
        transaction_id(device, EventId(prompt), stage, part=part, claim=claim)
        for device in ("A", "B")
        for prompt in ("$1", "$2")
        for stage in ("first", "edit:1", "edit:11", "final")
        for part in (0, 1)
        for claim in (1, 11)
    }

    assert len(ids) == 2 * 2 * 4 * 2 * 2
