"""Whose guesses at the token are counted together."""

import pytest
from aiohttp.test_utils import make_mocked_request

from bot.config.sections import DashboardSettings
from bot.dashboard.auth import Access
from tests.fakes.clock import FakeClock

TOKEN = "t" * 32


@pytest.mark.parametrize(
    ("guesser", "address", "is_locked"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::1", True),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),  # a subscriber has as many as he likes
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
        ("", "192.0.2.1", False),
    ],
)
def test_guesses_count_for_all_addresses_of_one_subscriber(
    guesser: str, address: str, *, is_locked: bool
) -> None:
    access = Access(DashboardSettings.model_validate({"token": TOKEN}), FakeClock())
    request = make_mocked_request("POST", "/connexion")
    for _ in range(10):
        assert access.log_in(request.clone(remote=guesser), "x") is None
    assert access.is_locked(request.clone(remote=address)) is is_locked
