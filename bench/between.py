"""Proxies before the homeserver, one per client, and a scripted model; both record times.

As a program it serves a number of clients of one homeserver until its stdin closes. It prints its
addresses as one line of JSON. It is a process of its own so that only this traffic delays its
clock.
"""

import asyncio
import re
import sys
import time
from contextlib import AsyncExitStack
from typing import Self

import aiohttp
import msgspec
from aiohttp import web
from yarl import URL

from tests.harness.model import ScriptedAnswer, ScriptedModel

_EVENT_ID = re.compile(rb'"event_id":"([^"]+)"')
_FORWARDED = ("Authorization", "Content-Type")
_LONGEST_BODY = 1 << 26

_SENTENCE = "Here stands one more sentence of exactly nine words."

# "short" is one sentence, so that its reply is one event. "streamed" is 100 words at the pace of a
# model; its first word is a sentence, and long enough to be shown at once. The next two, for many
# conversations at once, have 200 and 400 words. "flood" holds a slot for 15 s at little cost.
ANSWERS = {
    "short": ScriptedAnswer(text="This is one short sentence without another."),
    "streamed": ScriptedAnswer(
        text=" ".join(["Straightforwardly-noted.", *[_SENTENCE] * 11]), tokens_per_second=40
    ),
    "crowd": ScriptedAnswer(
        text=" ".join([*[_SENTENCE] * 22, "That's all."]), tokens_per_second=40
    ),
    "stream of people": ScriptedAnswer(
        text=" ".join([*[_SENTENCE] * 44, "That is all, really."]), tokens_per_second=40
    ),
    "flood": ScriptedAnswer(
        text=" ".join([*[_SENTENCE] * 6, "It is over at last."]), tokens_per_second=4
    ),
}


class Addresses(msgspec.Struct):
    """The base URLs of the proxies, one per client, and of the model."""

    proxies: list[str]
    model: str


class Request(msgspec.Struct):
    """One request to the homeserver; times are `time.monotonic()`.

    Attributes:
        began: time when its body was received.
        ended: time when the response was received, before it is forwarded.
    """

    method: str
    path: str
    status: int
    began: float
    ended: float


class Notes(msgspec.Struct):
    """The records of one client's proxy.

    Attributes:
        synced: time when the first /sync response with an event was forwarded, by event id. It is
            taken before the response is written, so that the time after it is the client's.
        requests: the requests that got a response.
    """

    synced: dict[str, float]
    requests: list[Request]


class Proxy:
    """Forwards one client's requests to the homeserver, and each response once it is complete."""

    def __init__(self, homeserver: str) -> None:
        self._homeserver = homeserver
        self._notes = Notes({}, [])

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        app = web.Application(client_max_size=_LONGEST_BODY)
        app.router.add_get("/notes", self._tell)
        app.router.add_route("*", "/_matrix/{path:.*}", self._forward)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._http.close()

    async def _forward(self, request: web.Request) -> web.Response:
        data = await request.read()
        began = time.monotonic()
        async with self._http.request(
            request.method,
            URL(f"{self._homeserver}{request.raw_path}", encoded=True),
            data=data,
            headers={key: request.headers[key] for key in _FORWARDED if key in request.headers},
        ) as answer:
            body = await answer.read()
        response = web.Response(
            status=answer.status,
            body=body,
            headers={"Content-Type": answer.headers["Content-Type"]},
        )
        ended = time.monotonic()
        await response.prepare(request)
        await response.write_eof()
        self._notes.requests.append(
            Request(request.method, request.path, answer.status, began, ended)
        )
        if request.path.endswith("/sync"):
            for event_id in _EVENT_ID.findall(body):
                self._notes.synced.setdefault(event_id.decode(), ended)
        return response

    async def _tell(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._notes), content_type="application/json")


async def main(homeserver: str, clients: str) -> None:
    """Serve until stdin closes."""
    async with AsyncExitStack() as parts:
        model = await parts.enter_async_context(ScriptedModel())
        for word, answer in ANSWERS.items():
            model.when(word, answer)
        proxies = [await parts.enter_async_context(Proxy(homeserver)) for _ in range(int(clients))]
        addresses = Addresses([proxy.url for proxy in proxies], model.url)
        print(msgspec.json.encode(addresses).decode(), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
