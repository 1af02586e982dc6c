"""Every step that a crash may come between has its failpoints, and they do what they say."""

import ast
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.runtime.failpoints import COMMITS, IDENTITY_STEPS, REQUESTS, SITES, VARIABLE, Failpoints

BOT = Path(__file__).parents[3] / "bot"
# The port's methods that change something on the homeserver.
CHANGING = {"put", "redact", "join", "leave", "follow", "open_admin_room", "invite"}
WRITING = {"insert", "update", "delete"}
# Where the name stands in the place of a constant: see what its callers name.
FORWARDS = {"bot/replies/delivery.py", "bot/replies/notices.py"}
SENDING = {"send_once", "send_as"}  # the name is their `failpoint`, else "notice"
FORWARDED = {"first", "edit", "final", "repair"}
WITHIN = {"enter"}  # `follow`, which may make more than one request


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(BOT.rglob("*.py")):
        yield str(path.relative_to(BOT.parent)), ast.parse(path.read_text("utf-8"))


def is_on_matrix(call: ast.Call) -> bool:
    """Tell whether it is a call of one of the port's changing methods."""
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and function.attr in CHANGING
        and ast.unparse(function.value).split(".")[-1].lstrip("_") == "matrix"
    )


def guarded(tree: ast.Module) -> dict[ast.Call, str | None]:
    """Return the calls inside `with armed.around(name)`, and the name where it is a constant."""
    found: dict[ast.Call, str | None] = {}
    for block in ast.walk(tree):
        if not isinstance(block, ast.With):
            continue
        for item in block.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "armed.around":
                [name] = call.args
                constant = str(name.value) if isinstance(name, ast.Constant) else None
                inside = [one for one in ast.walk(block) if isinstance(one, ast.Call)]
                found |= dict.fromkeys(inside, constant)
    return found


def functions(tree: ast.Module) -> Iterator[ast.AsyncFunctionDef]:
    return (one for one in ast.walk(tree) if isinstance(one, ast.AsyncFunctionDef))


def test_no_request_that_changes_something_lacks_its_failpoints() -> None:
    names = set[str]()
    for path, tree in trees():
        if path.startswith("bot/matrix/"):
            continue
        around = guarded(tree)
        for call in [one for one in ast.walk(tree) if isinstance(one, ast.Call)]:
            if getattr(call.func, "attr", "") in SENDING and path not in FORWARDS:
                given = [one.value for one in call.keywords if one.arg == "failpoint"]
                name = given[0] if given else ast.Constant("notice")
                assert isinstance(name, ast.Constant), f"{path}:{call.lineno}"
                names.add(str(name.value))
            if not is_on_matrix(call):
                continue
            assert call in around, f"{path}:{call.lineno}"
            here = around[call]
            assert here is not None or path in FORWARDS, f"{path}:{call.lineno}"
            names |= {here} if here else set()
    assert names | FORWARDED | WITHIN == set(REQUESTS)


def test_what_is_forwarded_is_one_of_the_names() -> None:
    stages = set[str]()
    for path in (BOT / "replies").glob("*.py"):
        for one in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                stages.add(one.value.partition(":")[0])
    assert stages >= FORWARDED


def test_each_step_of_the_identity_is_reached_once() -> None:
    paths = [BOT / "matrix" / name for name in ("identity.py", "account_secrets.py")]
    reached = [
        str(call.args[0].value)
        for path in paths
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "armed.reach"
        and isinstance(call.args[0], ast.Constant)
    ]

    assert sorted(reached) == sorted(IDENTITY_STEPS)


def writers(tree: ast.Module) -> set[str]:
    """Return the functions that write to the ledger, or call one that does.

    They are those of a module, and of the modules from which it has queries or a base class.
    """
    parts = ("_queries", ".comments", ".campaign_answers")
    queries = [
        ast.parse((BOT.parent / f"{one.module.replace('.', '/')}.py").read_text("utf-8"))
        for one in ast.walk(tree)
        if isinstance(one, ast.ImportFrom) and one.module and one.module.endswith(parts)
    ]
    calls = {
        one.name: [call.func for call in ast.walk(one) if isinstance(call, ast.Call)]
        for module in (*queries, tree)
        for one in functions(module)
    }
    found = set[str]()
    while True:
        known = WRITING | found | {"_insert"}
        more = {
            name
            for name, called in calls.items()
            if any(ast.unparse(one).split(".")[-1] in known for one in called)
        }
        if more == found:
            return found
        found = more


def test_no_transaction_that_writes_lacks_its_failpoints() -> None:
    names = dict[str, bool]()
    for path, tree in trees():
        if not path.startswith("bot/storage/") or "migrations" in path:
            continue
        writing = writers(tree)
        for function in functions(tree):
            writes = function.name in writing
            for call in [one for one in ast.walk(function) if isinstance(one, ast.Call)]:
                if ast.unparse(call.func).endswith("_database.run"):
                    assert isinstance(call.args[0], ast.Constant)
                    name = str(call.args[0].value)
                    names[name] = names.get(name, False) or writes
    assert {name for name, writes in names.items() if writes} == set(COMMITS)


def test_nothing_is_written_but_in_the_one_place_that_has_them() -> None:
    for path, tree in trees():
        begins = [one for one in ast.walk(tree) if isinstance(one, ast.Attribute)]
        found = [one for one in begins if one.attr == "begin" and "engine" in ast.unparse(one)]
        assert len(found) == (path == "bot/storage/database.py"), path


@pytest.mark.parametrize("armed", ["sent.after", "nowhere.after:kill", "sent.after:melt", "x"])
def test_what_is_no_failpoint_is_refused(armed: str) -> None:
    with pytest.raises(ValueError, match="no such failpoint"):
        Failpoints(armed)


def test_nothing_happens_without_the_variable() -> None:
    points = Failpoints("")
    for site in SITES:
        points.reach(site)


def test_it_happens_at_its_passage_and_no_other() -> None:
    points = Failpoints("sent.before:enospc@2,sent.after:raise")

    points.reach("sent.before")
    with pytest.raises(OSError, match="No space left") as full:
        points.reach("sent.before")
    points.reach("sent.before")
    with pytest.raises(RuntimeError, match=r"sent\.after"):
        points.reach("sent.after")

    assert full.value.errno == errno.ENOSPC


def test_around_passes_both_sides_unless_the_block_fails() -> None:
    points = Failpoints("first.after:raise")
    with pytest.raises(KeyError), points.around("first"):
        raise KeyError
    with pytest.raises(RuntimeError), points.around("first"):
        pass


def _run(deed: str) -> subprocess.Popen[bytes]:
    code = "from bot.runtime.failpoints import armed; armed.reach('first.before'); print('passed')"
    return subprocess.Popen(  # noqa: S603  # our own words
        [sys.executable, "-c", code],
        env=os.environ | {VARIABLE: f"first.before:{deed}"},
        stdout=subprocess.PIPE,
        cwd=BOT.parent,
    )


def test_kill_ends_the_process_as_a_crash_does() -> None:
    with _run("kill") as process:
        assert process.wait() == -signal.SIGKILL


def test_hang_holds_the_process_up() -> None:
    with _run("hang") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.kill()
        assert process.stdout
        assert process.stdout.read() == b""
