"""Owns what lies between one client and its homeserver: a reverse proxy that meddles by rules."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, Self

import aiohttp
from aiohttp import web
from yarl import URL

from tests.stand.observations import JSON

Deed = Literal[
    "count",  # nothing
    "answer",  # `status` and `body`; the homeserver never hears of the request
    "hold",  # the request waits for the release, then goes on
    "postpone",  # {} at once; the request itself goes on after the release, in order
    "withhold",  # the homeserver hears of it at once; its answer waits for the release
    "cut",  # the homeserver hears of it at once; the connection breaks in place of its answer
]

_BEFORE: Sequence[Deed] = ("answer", "hold", "postpone")
_AFTER: Sequence[Deed] = ("count", "withhold", "cut")
_LARGEST_REQUEST = 64 << 20  # bytes
_PATIENCE_SECONDS = 20.0
_ERROR: JSON = {"errcode": "M_UNKNOWN", "error": "meddled"}
# They are each connection's own (RFC 9110, section 7.6.1), or follow from what is sent.
_NOT_FORWARDED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


@dataclass(slots=True, kw_only=True, eq=False)
class Rule:
    """What is done to the requests of one kind.

    Attributes:
        method: the HTTP method.
        path: a regular expression, searched in the decoded path without its query.
        deed: what is done.
        times: to how many requests it is done; None for all.
        status: with `body`, what "answer" sends.
        requests: bodies of those that it was done to so far, {} where one had none.
        statuses: what they were answered with, by the homeserver or here.
    """

    method: str
    path: str
    deed: Deed
    times: int | None
    status: int
    body: JSON
    requests: list[JSON] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    _released: asyncio.Event = field(default_factory=asyncio.Event)
    _order: asyncio.Lock = field(default_factory=asyncio.Lock)
    _noted: asyncio.Event = field(default_factory=asyncio.Event)

    async def met(self, requests: int = 1) -> None:
        """Wait until it was done to that many; the homeserver has heard of them, if it is to."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while len(self.requests) < requests:
                await self._noted.wait()

    def release(self) -> None:
        """Let go what waits, and all that comes from now on."""
        self._released.set()

    def applies(self, request: web.Request, deeds: Sequence[Deed]) -> bool:
        """Tell whether it is to be done to the request, and is one of `deeds`."""
        due = self.times is None or len(self.requests) < self.times
        ours = self.method == request.method and self.deed in deeds
        return due and ours and re.search(self.path, request.path) is not None

    def note(self, body: bytes) -> None:
        """Count a request."""
        self.requests.append(json.loads(body) if body else {})
        self._noted.set()
        self._noted = asyncio.Event()


class Meddler:
    """The proxy: what no rule is about passes as it is.

    Attributes:
        url: what the client is given for its homeserver's address.
    """

    def __init__(self, homeserver: str) -> None:
        self.url = ""
        self._homeserver = homeserver
        self._rules: list[Rule] = []
        self._postponed: list[asyncio.Task[None]] = []
        self._http: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),  # the client has its own
        )
        app = web.Application(client_max_size=_LARGEST_REQUEST)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner
        assert self._http
        await self._runner.cleanup()
        try:
            await asyncio.gather(*self._postponed)
        finally:
            await self._http.close()

    @contextmanager
    def rule(
        self,
        method: str,
        path: str,
        deed: Deed,
        *,
        times: int | None = None,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        body: JSON = _ERROR,
    ) -> Iterator[Rule]:
        """Do `deed` to such requests within the block; what waits at its end is released.

        Of several rules for one request the oldest applies that has not been applied `times`
        times; what is done before the homeserver hears of it goes before the rest.
        """
        rule = Rule(method=method, path=path, deed=deed, times=times, status=status, body=body)
        self._rules.append(rule)
        try:
            yield rule
        finally:
            self._rules.remove(rule)
            rule.release()

    async def _serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        rule = self._find(request, _BEFORE)
        if rule is not None:
            return await self._anticipate(rule, request, body)
        response = await self._forward(request, body)
        rule = self._find(request, _AFTER)
        if rule is None:
            return response
        rule.note(body)
        rule.statuses.append(response.status)
        if rule.deed == "withhold":
            await rule._released.wait()
        elif rule.deed == "cut" and request.transport:
            request.transport.abort()
        return response

    def _find(self, request: web.Request, deeds: Sequence[Deed]) -> Rule | None:
        return next((rule for rule in self._rules if rule.applies(request, deeds)), None)

    async def _anticipate(self, rule: Rule, request: web.Request, body: bytes) -> web.Response:
        """Do what is done before the homeserver hears of a request."""
        rule.note(body)
        if rule.deed == "answer":
            response = web.json_response(rule.body, status=rule.status)
        elif rule.deed == "hold":
            await rule._released.wait()
            response = await self._forward(request, body)
        else:
            later = self._forward_later(rule, request, body)
            self._postponed.append(asyncio.get_running_loop().create_task(later))
            response = web.json_response({})
        rule.statuses.append(response.status)
        return response

    async def _forward_later(self, rule: Rule, request: web.Request, body: bytes) -> None:
        async with rule._order:
            await rule._released.wait()
            response = await self._forward(request, body)
        if response.status != HTTPStatus.OK:
            raise RuntimeError(f"{request.method} {request.path}, postponed: {response.status}")

    async def _forward(self, request: web.Request, body: bytes) -> web.Response:
        assert self._http
        url = URL(self._homeserver + request.raw_path, encoded=True)
        try:
            async with self._http.request(
                request.method,
                url,
                data=body or None,
                headers=_forwarded(request.headers),
                skip_auto_headers=["Accept-Encoding", "Content-Type", "User-Agent"],
                allow_redirects=False,
            ) as answer:
                return web.Response(
                    status=answer.status,
                    body=await answer.read(),
                    headers=_forwarded(answer.headers),
                )
        except aiohttp.ClientConnectionError:
            return web.Response(status=HTTPStatus.BAD_GATEWAY)


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_FORWARDED}
