"""The recovery key goes to one file, or to a terminal, and to nowhere else."""

import io
import sys
from pathlib import Path

import pytest
from typing_extensions import override

from bot.errors import ConfigError
from bot.matrix.recovery_key import RecoveryKeyPlace
from bot.matrix.secret_storage import write_recovery_key

KEY = bytes(range(32))
TEXT = f"{write_recovery_key(KEY)}\n"


class Terminal(io.StringIO):
    @override
    def isatty(self) -> bool:
        return True


def test_the_file_is_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    place = RecoveryKeyPlace(tmp_path / "recovery.key")

    place.check()
    place.give(KEY)
    place.give(KEY)  # a start that goes on

    assert (tmp_path / "recovery.key").read_text() == TEXT
    assert (tmp_path / "recovery.key").stat().st_mode & 0o777 == 0o600
    assert place.read() == KEY
    assert [one.name for one in tmp_path.iterdir()] == ["recovery.key"]


@pytest.mark.parametrize("content", ["", TEXT[:20], "another", "é"])
def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "recovery.key"
    file.write_text(content)
    place = RecoveryKeyPlace(file)

    with pytest.raises(ConfigError, match="move that file away"):
        place.check()
    with pytest.raises(ConfigError, match=r"something else|holds no text"):
        place.give(KEY)
    assert file.read_text() == content


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "dangling"])
def test_a_link_is_not_followed(tmp_path: Path, *, there: bool) -> None:
    target, link = tmp_path / "target", tmp_path / "recovery.key"
    if there:
        target.write_text(TEXT)
    link.symlink_to(target)
    place = RecoveryKeyPlace(link)

    with pytest.raises(ConfigError):
        place.check()
    with pytest.raises(ConfigError):
        place.give(KEY)
    assert target.exists() == there


def test_a_directory_that_is_not_there_is_told_before_anything_is_made(tmp_path: Path) -> None:
    place = RecoveryKeyPlace(tmp_path / "missing" / "recovery.key")

    with pytest.raises(ConfigError, match="may write to"):
        place.check()
    with pytest.raises(ConfigError, match="No such file"):
        place.give(KEY)


def test_the_terminal_shows_it_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = RecoveryKeyPlace(None)
    for deed in (place.check, place.check_named, lambda: place.give(KEY)):
        with pytest.raises(ConfigError, match=r"matrix\.recovery_key_file"):
            deed()
    assert capsys.readouterr().out == ""

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    place.check()
    place.give(KEY)

    assert terminal.getvalue().count(TEXT.strip()) == 1
    assert place.read() is None
