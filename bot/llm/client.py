"""The Model port: streamed chat completions of one OpenAI-compatible backend."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final

import httpx2
import openai
import structlog

from bot.core.chat import Delta, FinishDelta, TextDelta, Turn
from bot.core.model_catalog import ModelCard
from bot.errors import ModelFailed, ModelTimeout, ModelUnknown
from bot.llm.error_mapping import completion_errors, refuse_status
from bot.llm.model_list import read_models
from bot.llm.request import messages
from bot.llm.response_body import is_event_stream, pieces, read_at_most
from bot.llm.sse import MAX_EVENT, CompletionStream
from bot.runtime.tls import tls_context

_LONGEST_LIST: Final = 4 * MAX_EVENT  # bytes of the list of models
_CHARACTERS_PER_TOKEN: Final = 8  # an upper bound; even long words have hardly half as many
_LATE: Final = 5.0  # seconds for what may come after the finish reason: usage and `[DONE]`
_WORDLESS: Final = 10  # stall timeouts without a word: a model may think for minutes

log = structlog.get_logger()


class OpenAIModel:
    """The Model port for one backend.

    Only the configuration counts: proxies and keys of the environment are ignored. No redirect is
    followed, as it would carry the conversation to another host.

    Attributes:
        listed: the models' ids and aliases, as the last `check` found them; empty if unknown.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None,
        connect_timeout: float,
        stall_timeout: float,
        proxy: str | None,
        ca_bundle: Path | None,
    ) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            base_url: the URL before `/chat/completions`; it mostly ends in `/v1`.
            api_key: the bearer token; None if the backend asks for none.
            connect_timeout: seconds for DNS, proxy, TCP and TLS together; the list of models may
                take as long again.
            stall_timeout: seconds without a byte before ModelTimeout or ModelStalled. Bytes that
                bring no word are tolerated for ten times as long.
            proxy: `http://` or `https://` URL, credentials included; None to connect directly.
            ca_bundle: PEM file, trusted in addition to the system's authorities.
        """
        self.listed: frozenset[str] = frozenset()
        self._context_lengths: dict[str, int] = {}
        self._connect_timeout = connect_timeout
        self._late = min(_LATE, stall_timeout)
        self._wordless = _WORDLESS * stall_timeout
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            # Without a key the SDK takes OPENAI_API_KEY from the environment, or refuses:
            # https://github.com/openai/openai-python#usage
            api_key=api_key or "none",
            max_retries=0,
            # `pool` becomes aiohttp's `connect`, the one limit that covers DNS and a proxy's
            # CONNECT: https://docs.aiohttp.org/en/stable/client_quickstart.html#timeouts
            timeout=httpx2.Timeout(stall_timeout, connect=connect_timeout, pool=connect_timeout),
            http_client=openai.DefaultAioHttpClient(
                event_hooks={"response": [refuse_status]},
                follow_redirects=False,
                # A compressed stream may come late, and may expand without a limit.
                headers={"Accept-Encoding": "identity"},
                # No connection is used twice: the backend may have closed it, as llama.cpp does
                # after each stream, and a POST is not sent again.
                limits=httpx2.Limits(max_connections=1000, keepalive_expiry=0.0),
                proxy=proxy,
                trust_env=False,
                verify=tls_context(ca_bundle),
            ),
        )
        # Here and not in `stream`: the SDK imports its resources at their first use.
        self._completions = self._client.chat.completions.with_streaming_response

    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        """Yield the completion as it comes; see `Model.stream`.

        Each comment, each empty chunk and each thought begins the stall timeout anew, and a
        backend may go on so for ever: therefore the time without a word is limited as well.
        """
        longest = _CHARACTERS_PER_TOKEN * card.longest_completion(self.context_length(card))
        stream, clock = CompletionStream(longest), asyncio.get_running_loop().time
        with completion_errors(stream):
            async with aclosing(self._read(turns, card, stream)) as deltas:
                deadline = clock() + self._wordless
                while True:
                    async with asyncio.timeout_at(deadline):
                        delta = await anext(deltas, None)
                    if delta is None:
                        break
                    yield delta
                    if isinstance(delta, TextDelta):
                        deadline = clock() + self._wordless
                    elif isinstance(delta, FinishDelta):
                        deadline = clock() + self._late
        stream.close()
        if stream.cut:  # the backend ignores `max_completion_tokens`
            log.warning("endless completion cut", model=card.id, characters=longest)

    async def _read(
        self, turns: Sequence[Turn], card: ModelCard, stream: CompletionStream
    ) -> AsyncGenerator[Delta, None]:
        """Send the request and yield what `stream` makes of the answer."""
        async with (
            self._completions.create(
                model=card.id,
                # The SDK walks through `messages` for each request, at a cost that grows with the
                # conversation (https://github.com/openai/openai-python/pull/3616); `extra_body`
                # is sent as it is, in place of the field of the same name.
                messages=[],
                extra_body={"messages": messages(turns)},
                temperature=openai.omit if card.temperature is None else card.temperature,
                max_completion_tokens=card.longest_completion(self.context_length(card)),
                stream=True,
                stream_options={"include_usage": True},
            ) as response,
            aclosing(pieces(response.http_response)) as body,
        ):
            if not is_event_stream(response.headers):
                completion = await read_at_most(MAX_EVENT + 1, body)
                if len(completion) > MAX_EVENT:
                    raise ModelFailed(f"the answer has more than {MAX_EVENT} bytes")
                for delta in stream.read_whole(completion):
                    yield delta
                return
            async for data in body:
                for delta in stream.feed(data):
                    yield delta
                if stream.done:
                    return

    def context_length(self, card: ModelCard) -> int:
        """Return the backend's context length in tokens, the card's if the backend names none."""
        return self._context_lengths.get(card.id, card.context_length)

    async def check(self) -> None:
        """Request the list of models and keep it.

        A backend without such a list (404) passes: only a completion would show more.

        Raises:
            CompletionError: the backend is down, or refuses.
        """
        with completion_errors(CompletionStream()), suppress(ModelUnknown):
            models = list(read_models(await self._list()))
            self.listed = frozenset().union(*(model.names for model in models))
            self._context_lengths = {
                name: model.context_length
                for model in models
                if model.context_length
                for name in model.names
            }

    async def _list(self) -> bytes:
        """Return the list of models, or as much of it as is read."""
        client = self._client.with_options(timeout=self._connect_timeout)
        try:
            async with (
                asyncio.timeout(2 * self._connect_timeout),
                client.models.with_streaming_response.list() as response,
                aclosing(pieces(response.http_response)) as body,
            ):
                return await read_at_most(_LONGEST_LIST, body)
        except TimeoutError as error:
            raise ModelTimeout("the list of models did not come in time") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()
