"""Rules for every test: its marks, a clean environment, no network in unit tests."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio
from coverage import Coverage
from hypothesis import HealthCheck, settings

from tests.harness.ledgers import migrated_database, migrated_file
from tests.harness.postgres import Postgres, programs

# No deadlines: a shared machine may be slow for a moment, whatever the code under test does.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

_TESTS = Path(__file__).parent
_MARKS = {
    "integration": "integration",
    "contract": "integration",
    "hostile": "integration",
    "e2e": "e2e",
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder, and run slow tests first, so that no worker waits for them."""
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        if folder in _MARKS:
            item.add_marker(_MARKS[folder])
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test in CI, where every part is installed."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
    return report


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ASSISTANT_", "OPENAI_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server() -> AsyncIterator[Postgres | None]:
    """One PostgreSQL for all tests of a process; None where this machine has none."""
    if programs() is None:
        yield None
        return
    async with Postgres() as running:
        yield running


@pytest.fixture
def postgres(postgres_server: Postgres | None) -> Postgres:
    if postgres_server is None:
        pytest.skip("there is no PostgreSQL on this machine")
    return postgres_server


@pytest.fixture
def migrated_ledger(
    postgres_server: Postgres | None, tmp_path: Path
) -> Callable[[str], Awaitable[Path | str]]:
    """Make a ledger that has its tables and no rows, on "sqlite" or "postgresql"."""

    async def make(kind: str) -> Path | str:
        if kind == "sqlite":
            return migrated_file(tmp_path / "ledger.db")
        if postgres_server is None:
            pytest.skip("there is no PostgreSQL on this machine")
        return await migrated_database(postgres_server)

    return make


@pytest.fixture
def untraced() -> Iterator[None]:
    """Measure no coverage: it would make the test several times slower, and others cover the code.

    A worker of pytest-xdist has two measurements, and pytest-cov's `no_cover` stops only one.
    """
    measuring: list[Coverage] = []
    while (one := Coverage.current()) is not None:
        one.stop()
        measuring.append(one)
    yield
    for one in reversed(measuring):
        one.start()


@pytest.fixture(autouse=True)
def _no_socket_in_unit_tests(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.path.relative_to(_TESTS).parts[0] not in {"unit", "simulation"}:
        return

    def refuse(*_: object) -> NoReturn:
        pytest.fail("a unit test opened a connection: move it to tests/integration")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
