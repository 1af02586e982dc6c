"""A scripted chat completions backend on loopback: real HTTP and SSE, scripted words and faults.

As a program it answers every request with `echo` until its stdin closes, at the address that it
prints as its one line.
"""

import argparse
import asyncio
import json
import re
import signal
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

from tests.harness import canaries

Mode = Literal[
    "ok",
    "verbatim",  # `status`, `headers` and `body`, as they are
    "mute",  # not a byte until the client leaves
    "stall",  # nothing more until the client leaves
    "drone",  # `tail` over and over until the client leaves
    "reset",  # TCP RST
    "close",  # FIN inside the chunked body
    "end",  # a well-formed end, but neither finish_reason nor [DONE]
]

# What a stream may hold before it breaks off: `Answer(mode="end", tail=...)`.
CUT_UTF8 = 'data: {"choices": [{"delta": {"content": "é'.encode()[:-1]
MALFORMED = b'data: {"choices": [{"delta": {"content": \n\n'
ERROR = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedAnswer:
    """The answer to one request.

    Attributes:
        text: the completion; None for `echo` of the request's messages.
        tokens_per_second: pace of the words; 0 for as fast as the client reads.
        mode: the fault, if any.
        after: words that come before the gate and the fault.
        tail: bytes that come between the gate and the fault.
        gate: event that the answer waits for after `after` words.
        finish_reason: finish reason of the last chunk.
        usage: usage to report; None for the number of words.
        comments: whether a comment line comes before every event.
        newline: line end of the stream.
        status: HTTP status; "verbatim" sends it with `headers` and `body`.
    """

    text: str | None = None
    tokens_per_second: float = 0.0
    mode: Mode = "ok"
    after: int = 0
    tail: bytes = b""
    gate: asyncio.Event | None = None
    finish_reason: str = "stop"
    usage: object = None
    comments: bool = False
    newline: str = "\n"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(slots=True)
class ModelExchange:
    """One request and its answer; times are `time.monotonic()`.

    Attributes:
        first_token: time when the first word was written.
        done: time when `[DONE]` was written.
        over: set when nothing more is written, because of the end, a fault or a client that left.
    """

    body: dict[str, Any]
    headers: Mapping[str, str]
    arrived: float
    first_token: float | None = None
    done: float | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def prompt(self) -> str:
        """The last user turn."""
        return _prompts(self.body["messages"])[-1]


def echo(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the answer that shows the context: the last user turn, then the earlier ones."""
    *earlier, last = _prompts(messages)
    return f"You said: {last}." + (f" Before that: {', '.join(earlier)}." if earlier else "")


def _prompts(messages: Sequence[Mapping[str, str]]) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "user"]


class ScriptedModel:
    """The server; a restart after `stop` listens on the same port.

    Its list of models has `max_context_length` if that is given.

    Attributes:
        exchanges: all requests for completions, oldest first.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        default: ScriptedAnswer | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_context_length: int | None = None,
    ) -> None:
        self.exchanges: list[ModelExchange] = []
        self._port = port
        self._default = default or ScriptedAnswer()
        self._ssl_context = ssl_context
        self._max_context_length = max_context_length
        self._arrivals: asyncio.Queue[ModelExchange] = asyncio.Queue()
        self._next: deque[ScriptedAnswer] = deque()
        self._when: dict[str, ScriptedAnswer] = {}
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The base URL, once started."""
        return f"http{'s' if self._ssl_context else ''}://127.0.0.1:{self._port}/v1"

    def next(self, *answers: ScriptedAnswer) -> None:
        """Queue answers for the next requests, in the order of their arrival."""
        self._next.extend(answers)

    def when(self, substring: str, answer: ScriptedAnswer) -> None:
        """Use an answer if the last user turn contains `substring` and no answer is queued.

        Of several matching substrings the longest counts, so that no test depends on their order.
        """
        self._when[substring] = answer

    async def asked(self) -> ModelExchange:
        """Wait for the next request that no earlier call has returned."""
        return await self._arrivals.get()

    async def start(self) -> None:
        """Start to listen."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/exchanges", self._list_exchanges)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(
            self._runner, "127.0.0.1", self._port, ssl_context=self._ssl_context
        ).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._runner:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _list_models(self, _: web.Request) -> web.Response:
        model: dict[str, object] = {
            "id": "scripted",
            "object": "model",
            "created": 0,
            "owned_by": "stand",
        }
        if self._max_context_length is not None:
            model["max_context_length"] = self._max_context_length
        return web.json_response({"object": "list", "data": [model]})

    async def _list_exchanges(self, _: web.Request) -> web.Response:
        """Serve the times of all requests, for a bench that runs this server as a process."""
        keys = ("prompt", "arrived", "first_token", "done")
        return web.json_response(
            [{key: getattr(exchange, key) for key in keys} for exchange in self.exchanges]
        )

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        exchange = ModelExchange(await request.json(), request.headers, time.monotonic())
        self.exchanges.append(exchange)
        self._arrivals.put_nowait(exchange)
        answer = self._choose(exchange.prompt)
        try:
            if answer.mode == "verbatim":
                return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
            if answer.mode == "mute":
                await asyncio.Event().wait()
            stream = _Stream(request, exchange, answer)
            with suppress(ConnectionResetError):  # the client may leave at any time
                await stream.run()
            return stream.response
        finally:
            exchange.over.set()

    def _choose(self, prompt: str) -> ScriptedAnswer:
        if self._next:
            return self._next.popleft()
        matching = [part for part in self._when if part in prompt]
        return self._when[max(matching, key=len)] if matching else self._default


class _Stream:
    """One answer that is being sent."""

    def __init__(
        self, request: web.Request, exchange: ModelExchange, answer: ScriptedAnswer
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._answer = answer
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})

    async def run(self) -> None:
        """Write the words, the gate and the fault, as the answer says."""
        answer, body = self._answer, self._exchange.body
        await self.response.prepare(self._request)
        text = echo(body["messages"]) if answer.text is None else answer.text
        canaries.remember(text)
        words = re.findall(r"\s*\S+\s*", text)
        await self._choice({"role": "assistant", "content": ""})
        await self._say(words[: answer.after])
        if answer.gate:
            await answer.gate.wait()
        if answer.mode != "ok":
            await self._fail()
            return
        await self._say(words[answer.after :])
        await self._choice({}, answer.finish_reason)
        if body.get("stream_options", {}).get("include_usage"):
            prompt_tokens = sum(len(turn["content"].split()) for turn in body["messages"])
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(words)}
            await self._event({"choices": [], "usage": answer.usage or usage})
        await self._write("[DONE]")
        self._exchange.done = time.monotonic()

    async def _say(self, words: Sequence[str]) -> None:
        rate, start = self._answer.tokens_per_second, time.monotonic()
        for count, word in enumerate(words, 1):
            await self._choice({"content": word})
            self._exchange.first_token = self._exchange.first_token or time.monotonic()
            if rate:
                await asyncio.sleep(start + count / rate - time.monotonic())

    async def _fail(self) -> None:
        await self.response.write(self._answer.tail)
        transport = self._request.transport
        assert transport, "the client has left before the fault"
        if self._answer.mode == "stall":
            await asyncio.Event().wait()
        elif self._answer.mode == "drone":
            await self._drone()
        elif self._answer.mode == "close":
            transport.close()
        elif self._answer.mode == "reset":
            linger = struct.pack("ii", 1, 0)  # on, 0 s: the kernel sends RST instead of FIN
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()

    async def _drone(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            await self.response.write(self._answer.tail)

    async def _choice(self, delta: Mapping[str, str], finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        await self._event({"choices": [choice]})

    async def _event(self, chunk: Mapping[str, object]) -> None:
        head = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0}
        chunk = {**head, "model": self._exchange.body["model"], **chunk}
        await self._write(json.dumps(chunk, ensure_ascii=False))

    async def _write(self, data: str) -> None:
        lines = ": ping\n\n" if self._answer.comments else ""
        lines += f"data: {data}\n\n"
        await self.response.write(lines.replace("\n", self._answer.newline).encode())


async def _serve(port: int, answer: ScriptedAnswer) -> None:
    async with ScriptedModel(port=port, default=answer) as model:
        sys.stdout.write(f"{model.url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve until stdin closes or a signal arrives."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens-per-second", type=float, default=0.0)
    arguments = parser.parse_args()
    # Python's own handler would wait for the thread that reads stdin.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(
        _serve(arguments.port, ScriptedAnswer(tokens_per_second=arguments.tokens_per_second))
    )


if __name__ == "__main__":
    main()
