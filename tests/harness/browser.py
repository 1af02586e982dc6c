"""A real browser: pages as Chromium shows them, and the faults that axe-core finds in them."""

import asyncio
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

from tests.harness import node

ARTEFACTS: Final = Path(__file__).parents[2] / "artefacts"  # pictures for people

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_ANSWER_SECONDS: Final = 50.0
_LONGEST_LINE: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Look:
    """The way to open a page.

    Attributes:
        width: width of the window, in CSS pixels.
        script: whether the page may run scripts; only then axe-core checks it.
        form: texts for the fields, by field name, before the form is sent.
        file: name of the picture to keep; None for none.
    """

    url: str
    theme: Literal["light", "dark"] = "light"
    width: int = 1280
    script: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    form: dict[str, str] | None = None
    file: str | None = None


def executable() -> str | None:
    """Return the browser of this machine; None if there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Browser:
    """One Chromium, driven by the Node.js program in browser/."""

    def __init__(self, program: str) -> None:
        """Store the path of the browser's executable."""
        self._program = program
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        if not node.is_installed(node.BROWSER):
            raise RuntimeError("first run: python -m tests.harness.node install")
        binary, _ = node.find_node()
        self._process = await asyncio.create_subprocess_exec(
            *(binary, "look.mjs", self._program),
            cwd=node.BROWSER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process
        assert self._process.stdin
        self._process.stdin.close()  # it ends when its input does
        await self._process.wait()

    async def look(self, look: Look) -> Any:  # noqa: ANN401  # the JSON of look.mjs
        """Open a page, and return the report of browser/look.mjs."""
        assert self._process
        assert self._process.stdin
        assert self._process.stdout
        given = {name: getattr(look, name) for name in Look.__slots__}
        if look.file:
            ARTEFACTS.mkdir(exist_ok=True)
            given["file"] = str(ARTEFACTS / look.file)
        self._process.stdin.write(f"{json.dumps(given)}\n".encode())
        async with asyncio.timeout(_ANSWER_SECONDS):
            seen = json.loads(await self._process.stdout.readline())
        assert "failed" not in seen, seen["failed"]
        return seen
