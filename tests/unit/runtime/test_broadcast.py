"""A signal for all who wait at this moment."""

from bot.runtime.broadcast import Broadcast


def test_it_wakes_who_waits_now_and_nobody_who_comes_later() -> None:
    changes = Broadcast()
    now = changes.current

    changes.send()

    assert now.is_set()
    assert not changes.current.is_set()
