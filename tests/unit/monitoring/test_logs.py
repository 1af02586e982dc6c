import asyncio
import base64
import hashlib
import json
import logging
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from structlog.testing import capture_logs

from bot.monitoring.health import Health
from bot.monitoring.logs import _hear, log_bug
from tests.fakes.clock import FakeClock

SECRET = "canari-1789"
ROOM = "!QtykxKocfsgrOYneTU"
SERVER = "agent.dinum.tchap.gouv.fr"


def random_id(sigil: str, number: int = 0) -> str:
    """Return an id as room version 12 makes it of an event's hash."""
    digest = hashlib.sha256(number.to_bytes(2, "big")).digest()
    return sigil + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def ids_in(message: object, *arguments: object) -> list[str]:
    """Return the ids that are logged of a library's message."""
    record = logging.LogRecord("nio", logging.WARNING, "x.py", 7, message, arguments, None)
    with capture_logs() as lines:
        _hear(logging.getLogger("nio"), record)
    [line] = lines
    logged: list[str] = line.get("ids", [])
    return logged


async def printed(program: str, form: str = "json") -> str:
    """Run a program that has configured its log at "debug", and return all that it prints.

    The secret is `secret` there: a traceback shows the lines of the program.
    """
    beginning = """
        import asyncio, logging, sys, threading, warnings
        from bot.monitoring.logs import configure
        configure("debug", sys.argv[2])
        secret = sys.argv[1]
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", dedent(beginning) + dedent(program), SECRET, form),
        cwd=Path(__file__).parents[3],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode()


async def logged(program: str) -> list[dict[str, Any]]:
    """Return the lines of JSON that the program prints, which are all it may print."""
    output = await printed(program)
    assert SECRET not in output
    return [json.loads(line) for line in output.splitlines()]


def test_a_bug_is_logged_by_its_kind_and_place_and_never_by_its_values() -> None:
    with pytest.raises(ValueError, match=SECRET) as caught:
        int(SECRET)

    health = Health(clock=FakeClock())
    before = health.figure("assistant_bugs_total")
    with capture_logs() as lines:
        log_bug(caught.value)

    assert health.figure("assistant_bugs_total") == before + 1
    [line] = lines
    assert line["kind"] == "ValueError"
    assert "test_logs.py" in line["at"][0]
    assert SECRET not in str(line)


async def test_a_line_that_cannot_be_written_costs_nothing_and_the_next_says_so() -> None:
    lines = (
        await printed("""
            import os, resource, structlog, tempfile
            log, pipe = structlog.get_logger(), os.dup(2)
            log.info("before")
            with tempfile.TemporaryFile() as full:
                os.dup2(full.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_FSIZE, (9, -1))
                log.info("lost in part")
                log.info("lost", half="\\ud800")
                os.dup2(pipe, 2)
            log.info("after", half="\\ud800")
        """)
    ).splitlines()

    events = [json.loads(line)["event"] for line in lines if line]
    assert events == ["before", "after", "log was cut"]
    assert json.loads(lines[-1])["lines"] == 2


def test_that_a_library_spoke_is_logged_and_not_what_it_said() -> None:
    record = logging.LogRecord("nio.events", logging.WARNING, "misc.py", 7, SECRET, None, None)

    with capture_logs() as lines:
        _hear(logging.getLogger("nio.events"), record)

    assert lines == [
        {"event": "library spoke", "library": "nio.events", "line": 7, "log_level": "warning"}
    ]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f"no key for {random_id('$')}", [random_id("$")]),
        (f"no key for {random_id('$')}.", [random_id("$")]),
        (f"{{'event_id': '{random_id('$')}', 'body': '{SECRET}'}}", [random_id("$")]),
        (f"room {random_id('!')}, {SECRET}", [random_id("!")]),
        (f"room ({ROOM}:{SERVER}), {SECRET}", [ROOM]),
        (f"{random_id('$')} {ROOM}:{SERVER} {random_id('$')}", [random_id("$"), ROOM]),
        (" ".join(random_id("$", n) for n in range(20)), [random_id("$", n) for n in range(8)]),
    ],
)
def test_the_ids_of_events_and_rooms_are_kept(message: str, expected: list[str]) -> None:
    assert ids_in(message) == expected


def test_ids_are_kept_where_they_are_arguments() -> None:
    assert ids_in("%s in %r", random_id("$"), random_id("!")) == [random_id("$"), random_id("!")]


def test_nearly_every_id_is_known_for_one() -> None:
    every = [random_id(sigil, number) for sigil in "$!" for number in range(1000)]

    assert sum(ids_in(one) == [one] for one in every) > 0.97 * len(every)


@pytest.mark.parametrize(
    "message",
    [
        "!ma-reponse:au-ministre-est.non",
        "!jedetestemonchefxx:tchap.fr",
        f"@camille.martin-interieur.gouv.fr:{SERVER}",
        f"#licenciements:{SERVER}",
        "$licenciements-en-mars:tchap.fr",
        "$je_ne_supporte_plus_mon_chef_depuis_un_mois",
        "$JE_NE_SUPPORTE_PLUS_MON_CHEF_DEPUIS_UN_MOIS",
        "$Je_ne_supporte_plus_mon_Chef_depuis_un_mois",
        "$jenesupporteplusmonchefdepuisunmoisetdemi0A",
        random_id("$")[:-1],
        f"{random_id('$')}A",
        f"{random_id('$')[:-1]}B",  # no 32 bytes end so
        f"{random_id('$')}:{SERVER}",
        f"{random_id('$')}.suite",
        f"x{random_id('$')}",
        f"https://matrix.to/#/{random_id('!')}/{random_id('$')}",
        random_id("$").replace(random_id("$")[5], "é"),
        random_id("$").replace(random_id("$")[5], "٣"),
        f"{random_id('$')[:20]} {random_id('$')[20:]}",
        f"mxc://{SERVER}/{random_id('$')[1:]}",
    ],
)
def test_words_that_look_like_an_id_are_not_kept(message: str) -> None:
    assert ids_in(message) == ids_in(f"{{'body': '{message}'}}") == []


@pytest.mark.parametrize(
    ("number", "level"), [(30, "warning"), (35, "warning"), (40, "error"), (70, "critical")]
)
def test_a_librarys_level_is_kept(number: int, level: str) -> None:
    record = logging.LogRecord("nio", number, "x.py", 7, SECRET, None, None)

    with capture_logs() as lines:
        _hear(logging.getLogger("nio"), record)

    assert [line["log_level"] for line in lines] == [level]


LIBRARY = 'library = logging.getLogger("library")\n'
OWN_HANDLER = LIBRARY + "library.addHandler(logging.StreamHandler())\n"
CUT_OFF = "library.propagate = False\n"
HEARD = ("library spoke", "library", None)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (LIBRARY + "library.warning(secret)", HEARD),
        (LIBRARY + "library.warning('%s', secret, extra={'body': secret})", HEARD),
        (LIBRARY + "library.warning(secret, stack_info=True)", HEARD),
        (LIBRARY + CUT_OFF + "library.warning(secret)", HEARD),
        (OWN_HANDLER + "library.warning(secret)", HEARD),
        (OWN_HANDLER + CUT_OFF + "library.warning(secret)", HEARD),
        ("logging.basicConfig(force=True)\n" + LIBRARY + "library.warning(secret)", HEARD),
        ("logging.warning(secret)", ("library spoke", "root", None)),
        (LIBRARY + "library.warning('%d', secret)", HEARD),
        (LIBRARY + "library.warning('%s and %s', secret)", HEARD),
        (
            LIBRARY + "library.warning(type('Text', (), {'__str__': lambda _: int(secret)})())",
            HEARD,
        ),
        (
            LIBRARY + "try: int(secret)\nexcept ValueError: library.exception(secret)",
            ("library spoke", "library", "ValueError"),
        ),
        ("warnings.warn(secret)", ("library warned", None, "UserWarning")),
        ("int(secret)", ("bug", None, "ValueError")),
        (
            "thread = threading.Thread(target=int, args=(secret,))\nthread.start()\nthread.join()",
            ("bug", None, "ValueError"),
        ),
        (
            "class Closed:\n    def __del__(self): int(secret)\nClosed()",
            ("bug", None, "ValueError"),
        ),
        (
            """
            async def fail(): int(secret)
            async def forget():
                task = asyncio.ensure_future(fail())
                await asyncio.wait([task])
            asyncio.run(forget())
            """,
            ("library spoke", "asyncio", "ValueError"),
        ),
        (
            """
            def fail(): int(secret)
            async def call():
                asyncio.get_running_loop().call_soon(fail)
                await asyncio.sleep(0)
            asyncio.run(call())
            """,
            ("library spoke", "asyncio", "ValueError"),
        ),
        (
            """
            import nio
            nio.Event.parse_event({"type": "m.room.message", "content": {"body": secret}})
            """,
            ("library spoke", "nio.events.misc", None),
        ),
    ],
)
async def test_whatever_way_a_text_takes_into_a_log_it_is_left_out(
    program: str, expected: tuple[str, str | None, str | None]
) -> None:
    lines = await logged(program)

    assert [(line["event"], line.get("library"), line.get("kind")) for line in lines] == [expected]


async def test_a_log_for_eyes_leaves_texts_out_too() -> None:
    output = await printed(
        LIBRARY + "try: int(secret)\nexcept ValueError: library.exception(secret)\nint(secret)",
        form="console",
    )

    assert "library spoke" in output
    assert "bug" in output
    assert SECRET not in output


async def test_what_libraries_say_below_warning_is_not_heard() -> None:
    program = """
        library.setLevel(logging.DEBUG)
        library.debug(secret)
        library.info(secret)
        library.error("the end")
    """

    [line] = await logged(dedent(LIBRARY) + dedent(program))

    assert line["level"] == "error"
