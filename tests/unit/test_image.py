"""The Dockerfile: who runs in it, what it stands on, and what goes to its builder."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", "")
RULES = [
    line
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


def is_sent(path: str) -> bool:
    """Tell whether the builder gets a path, by the last rule for it or a folder above (Docker)."""
    sent = True
    parts = path.split("/")
    places = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for rule in RULES:
        pattern = rule.removeprefix("!")
        anywhere = pattern.removeprefix("**/")
        names = parts if pattern != anywhere else places
        if any(fnmatch(name, anywhere) for name in names):
            sent = rule.startswith("!")
    return sent


def test_it_runs_as_a_number_that_is_not_root() -> None:
    [user] = re.findall(r"(?m)^USER (.+)$", DOCKERFILE)
    assert re.fullmatch("[1-9][0-9]+:[1-9][0-9]+", user)


def test_both_stages_stand_on_an_image_that_the_operator_may_name() -> None:
    assert re.findall(r"(?m)^FROM (\S+)", DOCKERFILE) == ["${BASE}"] * 2
    [default] = re.findall(r"(?m)^ARG BASE=(.+)$", DOCKERFILE)
    assert DOCKERFILE.index("ARG BASE=") < DOCKERFILE.index("FROM ")
    assert "@" not in default


def test_the_builder_gets_all_that_is_copied() -> None:
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", DOCKERFILE)
    sources = [source for line in copied for source in line.split()]
    assert {"bot", "pyproject.toml", "requirements/bot.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert is_sent(source), source
    assert is_sent("bot/matrix/adapter.py")


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".venv/bin/python", "config.yaml", "state/ledger.db", ".env"),
        *("bot/__pycache__/app.cpython-313.pyc", "tests/make.py", "secret.key"),
    ],
)
def test_the_builder_gets_nothing_else(path: str) -> None:
    assert not is_sent(path)
