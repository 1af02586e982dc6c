"""Owns what may be done to a request on its way, by rule or by chance."""

import asyncio
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Literal, TypedDict

from tests.harness.client_view import JSON

Deed = Literal[
    "count",  # nothing
    "answer",  # `status` and `body`; the server never hears of the request
    "delay",  # the request goes on after `seconds`
    "hold",  # the request waits for the release, then goes on
    "postpone",  # {} at once; the request itself goes on after the release, in order
    "refuse",  # the connection breaks; the server never hears of the request
    "repeat",  # what the request before was answered, once more; the server hears of every other
    "replay",  # the server hears of it twice, one after the other; its second answer is given
    "withhold",  # the server hears of it at once; its answer waits for the release
    "cut",  # the server hears of it at once; the connection breaks in place of its answer
    "break",  # the connection breaks after `size` bytes of the answer's body
]
BEFORE: Final[Sequence[Deed]] = (
    *("answer", "delay", "hold", "postpone", "refuse", "repeat", "replay"),
)
AFTER: Final[Sequence[Deed]] = ("count", "withhold", "cut", "break")

_PATIENCE_SECONDS = 20.0
_ERROR: JSON = {"errcode": "M_UNKNOWN", "error": "meddled"}
_LIMITED: JSON = {"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests"}
_HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"
_LONGEST_DELAY = 1.0  # seconds, in a storm
_LARGEST_SIZE = 400  # bytes, in a storm


class How(TypedDict, total=False):
    """What a rule says besides; see Rule."""

    times: int | None
    status: int
    body: JSON | str
    seconds: float
    size: int


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer with all of its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True, eq=False)
class Rule:
    """What is done to the requests of one kind.

    Attributes:
        method: the HTTP method.
        path: a regular expression, searched in the decoded path without its query.
        deed: what is done.
        times: to how many requests it is done; None for all.
        status: with `body`, what "answer" sends.
        body: JSON, or the text of an HTML page.
        seconds: for "delay".
        size: for "break".
        requests: bodies of those that it was done to so far, {} where one had none; of a file, how
            many bytes it has.
        statuses: what they were answered with, by the server or here.
        released: set once nothing waits any more.
        last: for "repeat", what is given once more.
    """

    method: str
    path: str
    deed: Deed
    times: int | None = None
    status: int = HTTPStatus.INTERNAL_SERVER_ERROR
    body: JSON | str = field(default_factory=_ERROR.copy)
    seconds: float = 0.0
    size: int = 0
    requests: list[JSON] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    order: asyncio.Lock = field(default_factory=asyncio.Lock)
    last: Whole | None = None
    _noted: asyncio.Event = field(default_factory=asyncio.Event)

    async def met(self, requests: int = 1) -> None:
        """Wait until it was done to that many; the server has heard of them, if it is to."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(self.requests) < requests:
                await self._noted.wait()

    def release(self) -> None:
        """Let go what waits, and all that comes from now on."""
        self.released.set()

    def applies(self, method: str, path: str, deeds: Sequence[Deed]) -> bool:
        """Tell whether it is to be done to the request, and is one of `deeds`."""
        due = self.times is None or len(self.requests) < self.times
        ready = self.deed != "repeat" or self.last is not None
        return due and ready and self.deed in deeds and _is_about(self, method, path)

    def keeps(self, method: str, path: str) -> bool:
        """Tell whether it needs to know what the request is answered."""
        return self.deed == "repeat" and _is_about(self, method, path)

    def note(self, body: bytes) -> None:
        """Count a request."""
        try:
            self.requests.append(json.loads(body) if body else {})
        except ValueError:  # a file
            self.requests.append({"bytes": len(body)})
        self._noted.set()
        self._noted = asyncio.Event()


@dataclass(slots=True, kw_only=True, eq=False)
class Storm:
    """Deeds that befall the requests of one kind by chance, in an order that the seed gives.

    Attributes:
        method: the HTTP method.
        path: as a rule's.
        chances: how likely each deed is, of 1 in all at the most.
        dice: what is thrown for each request.
        done: the deeds so far, in the order of the requests.
        last: as a rule's.
    """

    method: str
    path: str
    chances: Mapping[Deed, float]
    dice: random.Random
    done: list[Deed] = field(default_factory=list)
    last: Whole | None = None

    def throw(self, method: str, path: str) -> Rule | None:
        """Return what is to be done to this request, None for nothing."""
        if not _is_about(self, method, path):
            return None
        deeds: list[Deed | None] = [*self.chances, None]
        chances = [*self.chances.values(), 1 - sum(self.chances.values())]
        [deed] = self.dice.choices(deeds, chances)
        if deed is None:
            return None
        self.done.append(deed)
        status, body = self.dice.choice(_REFUSALS)
        rule = Rule(
            method=method,
            path=f"^{re.escape(path)}$",
            deed=deed,
            status=status,
            body=body,
            seconds=self.dice.uniform(0, _LONGEST_DELAY),
            size=self.dice.randrange(_LARGEST_SIZE),
            last=self.last,
        )
        rule.release()  # nobody is there to do it later
        return rule

    def keeps(self, method: str, path: str) -> bool:
        """Tell whether it needs to know what the request is answered."""
        return "repeat" in self.chances and _is_about(self, method, path)


def _is_about(one: Rule | Storm, method: str, path: str) -> bool:
    return one.method == method and re.search(one.path, path) is not None


# What servers, and what stands before them, answer when they cannot.
_REFUSALS: Final[Sequence[tuple[int, JSON | str]]] = (
    (HTTPStatus.TOO_MANY_REQUESTS, {**_LIMITED, "retry_after_ms": 300}),
    (HTTPStatus.TOO_MANY_REQUESTS, _LIMITED),
    (HTTPStatus.INTERNAL_SERVER_ERROR, _ERROR),
    (HTTPStatus.BAD_GATEWAY, _HTML),
    (HTTPStatus.SERVICE_UNAVAILABLE, ""),
    (HTTPStatus.GATEWAY_TIMEOUT, _HTML),
)
