"""A reverse proxy between a client and its server that causes faults, by rules or at random.

The server is a homeserver or a model; streamed bodies are forwarded as they come.
"""

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Self, Unpack

import aiohttp
from aiohttp import web
from yarl import URL

from tests.harness.rules import AFTER, BEFORE, Deed, How, Rule, Storm, Whole

__all__ = ["Deed", "FaultProxy", "Rule", "Storm"]

_LARGEST_REQUEST = 64 << 20  # bytes
# These belong to each connection (RFC 9110, section 7.6.1), or follow from the sent body.
_NOT_FORWARDED = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


class FaultProxy:
    """The proxy; requests without a rule are forwarded unchanged.

    Attributes:
        url: the address that the client gets as its server's.
    """

    def __init__(self, server: str) -> None:
        self.url = ""
        self._server = server
        self._rules: list[Rule] = []
        self._storms: list[Storm] = []
        self._postponed: list[asyncio.Task[None]] = []
        self._http: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),  # the client has its own timeout
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
    def rule(self, method: str, path: str, deed: Deed, **how: Unpack[How]) -> Iterator[Rule]:
        """Apply `deed` to matching requests within the block; its end releases waiting ones.

        Of several rules for a request, the oldest that was not yet applied `times` times counts.
        Deeds before the request reaches the server precede the others.
        """
        rule = Rule(method=method, path=path, deed=deed, **how)
        self._rules.append(rule)
        try:
            yield rule
        finally:
            self._rules.remove(rule)
            rule.release()

    @contextmanager
    def storm(
        self, method: str, path: str, chances: Mapping[Deed, float], *, seed: int
    ) -> Iterator[Storm]:
        """Apply these deeds at random to matching requests within the block, after the rules."""
        dice = random.Random(seed)  # noqa: S311  # it guards no secret
        storm = Storm(method=method, path=path, chances=chances, dice=dice)
        self._storms.append(storm)
        try:
            yield storm
        finally:
            self._storms.remove(storm)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body, chance = await request.read(), self._throw(request)
        rule = self._find(request, BEFORE, chance)
        if rule is not None:
            rule.note(body)
            response = await self._anticipate(rule, request, body)
            if response is not None:
                rule.statuses.append(response.status)
                return response
        answer = await self._ask(request, body)
        try:
            if rule is None and (rule := self._find(request, AFTER, chance)) is not None:
                rule.note(body)
            return await self._conclude(request, answer, rule)
        finally:
            if answer is not None:
                answer.close()

    def _throw(self, request: web.Request) -> Sequence[Rule]:
        """Return the random deeds for the request."""
        thrown = [storm.throw(request.method, request.path) for storm in self._storms]
        return [rule for rule in thrown if rule is not None]

    def _find(
        self, request: web.Request, deeds: Sequence[Deed], chance: Sequence[Rule]
    ) -> Rule | None:
        method, path = request.method, request.path
        rules = (*self._rules, *chance)
        return next((rule for rule in rules if rule.applies(method, path, deeds)), None)

    async def _anticipate(
        self, rule: Rule, request: web.Request, body: bytes
    ) -> web.Response | None:
        """Apply the deeds before the request reaches the server; None if it may go on."""
        match rule.deed:
            case "answer":
                return _own(rule)
            case "refuse":
                return _abort(request)
            case "repeat":
                whole, rule.last = rule.last, None
                return None if whole is None else _whole(whole)
            case "postpone":
                later = self._forward_later(rule, request, body)
                self._postponed.append(asyncio.get_running_loop().create_task(later))
                return web.json_response({})
            case "delay":
                await asyncio.sleep(rule.seconds)
            case "hold":
                await rule.released.wait()
            case _:
                await self._forward(request, body)
        return None

    async def _conclude(
        self, request: web.Request, answer: aiohttp.ClientResponse | None, rule: Rule | None
    ) -> web.StreamResponse:
        """Apply the deeds after the server's response; None if the server is away."""
        status = HTTPStatus.BAD_GATEWAY if answer is None else answer.status
        if rule is not None:
            rule.statuses.append(status)
        if rule is not None and rule.deed == "cut":
            return _abort(request)
        if answer is None:
            return web.Response(status=status)
        if rule is not None and rule.deed == "withhold":
            whole = await _read(answer)
            await rule.released.wait()
            return _whole(whole)
        return await self._pass_on(request, answer, rule)

    async def _pass_on(
        self, request: web.Request, answer: aiohttp.ClientResponse, rule: Rule | None
    ) -> web.StreamResponse:
        sources: list[Rule | Storm] = [*self._rules, *self._storms]
        keeping = [one for one in sources if one.keeps(request.method, request.path)]
        if keeping:
            whole = await _read(answer)
            for one in keeping:
                one.last = whole
            return _whole(whole)
        return await _stream(request, answer, rule.size if rule and rule.deed == "break" else None)

    async def _forward_later(self, rule: Rule, request: web.Request, body: bytes) -> None:
        async with rule.order:
            await rule.released.wait()
            status = await self._forward(request, body)
        if status != HTTPStatus.OK:
            raise RuntimeError(f"{request.method} {request.path}, postponed: {status}")

    async def _forward(self, request: web.Request, body: bytes) -> int:
        """Forward the request, and return the status of its complete response."""
        answer = await self._ask(request, body)
        if answer is None:
            return HTTPStatus.BAD_GATEWAY
        return (await _read(answer)).status

    async def _ask(self, request: web.Request, body: bytes) -> aiohttp.ClientResponse | None:
        """Forward the request, and return the start of the response; None without a server."""
        assert self._http
        url = URL(self._server + request.raw_path, encoded=True)
        try:
            return await self._http.request(
                request.method,
                url,
                data=body or None,
                headers=_forwarded(request.headers),
                skip_auto_headers=["Accept-Encoding", "Content-Type", "User-Agent"],
                allow_redirects=False,
            )
        except aiohttp.ClientConnectionError:
            return None


async def _stream(
    request: web.Request, answer: aiohttp.ClientResponse, size: int | None
) -> web.StreamResponse:
    """Forward the body as it comes, up to `size` bytes; break off if the server does."""
    response = web.StreamResponse(status=answer.status, headers=_forwarded(answer.headers))
    if "Content-Length" in answer.headers:
        response.content_length = int(answer.headers["Content-Length"])
    left = size
    try:
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk[:left])
            left = None if left is None else max(left - len(chunk), 0)
            if left == 0:
                break
    except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):  # either may have left
        _abort(request)
    if size is not None:
        _abort(request)
    return response


async def _read(answer: aiohttp.ClientResponse) -> Whole:
    return Whole(answer.status, _forwarded(answer.headers), await answer.read())


def _whole(whole: Whole) -> web.Response:
    return web.Response(status=whole.status, headers=whole.headers, body=whole.body)


def _own(rule: Rule) -> web.Response:
    """Return the response of the rule."""
    if isinstance(rule.body, str):
        return web.Response(status=rule.status, text=rule.body, content_type="text/html")
    return web.json_response(rule.body, status=rule.status)


def _abort(request: web.Request) -> web.Response:
    """Break the connection; the returned response is never sent."""
    if request.transport:
        request.transport.abort()
    return web.Response(status=HTTPStatus.BAD_GATEWAY)


def _forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_FORWARDED}
