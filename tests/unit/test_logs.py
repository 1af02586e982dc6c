import logging

import pytest
from structlog.testing import capture_logs

from bot.logs import _Foreign, log_bug

SECRET = "canari-1789"


def test_a_bug_is_logged_by_its_kind_and_place_and_never_by_its_values() -> None:
    with pytest.raises(ValueError, match=SECRET) as caught:
        int(SECRET)

    with capture_logs() as lines:
        log_bug(caught.value)

    [line] = lines
    assert line["kind"] == "ValueError"
    assert "test_logs.py" in line["at"][0]
    assert SECRET not in str(line)


def test_that_a_library_spoke_is_logged_and_not_what_it_said() -> None:
    record = logging.LogRecord("nio.events", logging.WARNING, "misc.py", 7, SECRET, None, None)

    with capture_logs() as lines:
        _Foreign().emit(record)

    assert lines == [
        {"event": "library spoke", "library": "nio.events", "line": 7, "log_level": "warning"}
    ]
