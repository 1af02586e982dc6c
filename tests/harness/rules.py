"""Rules of the fault proxy: the deeds that are applied to requests, by rule or at random."""

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
    "answer",  # `status` and `body`; the server never gets the request
    "delay",  # the request is forwarded after `seconds`
    "hold",  # the request waits for the release, then is forwarded
    "postpone",  # {} at once; the request itself is forwarded after the release, in order
    "refuse",  # the connection breaks; the server never gets the request
    "repeat",  # the response to the request before, again; the server gets every second request
    "replay",  # the server gets it twice, in sequence; the client gets the second response
    "withhold",  # the server gets it at once; its response waits for the release
    "cut",  # the server gets it at once; the connection breaks instead of its response
    "break",  # the connection breaks after `size` bytes of the response's body
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
    """Optional fields of a rule; see Rule."""

    times: int | None
    status: int
    body: JSON | str
    seconds: float
    size: int


@dataclass(frozen=True, slots=True)
class Whole:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True, eq=False)
class Rule:
    """A deed for the requests of one kind.

    Attributes:
        method: the HTTP method.
        path: a regular expression, searched in the decoded path without its query.
        deed: the deed.
        times: number of requests to apply it to; None for all.
        status: HTTP status of "answer".
        body: body of "answer": JSON, or the text of an HTML page.
        seconds: duration of "delay".
        size: number of bytes before "break".
        requests: bodies of the requests so far; {} for an empty one, its size for a file.
        statuses: HTTP statuses of their responses, from the server or from the rule.
        released: set when nothing waits any more.
        last: the response that "repeat" returns again.
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
        """Wait for that many requests; the server has then got those that are forwarded."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(self.requests) < requests:
                await self._noted.wait()

    def release(self) -> None:
        """Release the waiting requests, and all later ones."""
        self.released.set()

    def applies(self, method: str, path: str, deeds: Sequence[Deed]) -> bool:
        """Return whether it applies to the request, and its deed is one of `deeds`."""
        due = self.times is None or len(self.requests) < self.times
        ready = self.deed != "repeat" or self.last is not None
        return due and ready and self.deed in deeds and _is_about(self, method, path)

    def keeps(self, method: str, path: str) -> bool:
        """Return whether it needs the response to the request."""
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
    """Random deeds for the requests of one kind; the seed determines their order.

    Attributes:
        method: the HTTP method.
        path: as in `Rule`.
        chances: probability of each deed; their sum is at most 1.
        dice: the random generator.
        done: the deeds so far, in the order of the requests.
        last: as in `Rule`.
    """

    method: str
    path: str
    chances: Mapping[Deed, float]
    dice: random.Random
    done: list[Deed] = field(default_factory=list)
    last: Whole | None = None

    def throw(self, method: str, path: str) -> Rule | None:
        """Return a random rule for this request; None for none."""
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
        rule.release()  # nobody would release it later
        return rule

    def keeps(self, method: str, path: str) -> bool:
        """Return whether it needs the response to the request."""
        return "repeat" in self.chances and _is_about(self, method, path)


def _is_about(one: Rule | Storm, method: str, path: str) -> bool:
    return one.method == method and re.search(one.path, path) is not None


# Error responses of servers, and of proxies before them.
_REFUSALS: Final[Sequence[tuple[int, JSON | str]]] = (
    (HTTPStatus.TOO_MANY_REQUESTS, {**_LIMITED, "retry_after_ms": 300}),
    (HTTPStatus.TOO_MANY_REQUESTS, _LIMITED),
    (HTTPStatus.INTERNAL_SERVER_ERROR, _ERROR),
    (HTTPStatus.BAD_GATEWAY, _HTML),
    (HTTPStatus.SERVICE_UNAVAILABLE, ""),
    (HTTPStatus.GATEWAY_TIMEOUT, _HTML),
)
