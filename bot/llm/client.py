"""The model: one streamed chat completion of an OpenAI-compatible backend, its failures named."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
import httpx2
import msgspec
import openai

from bot.core.events import Delta, Turn
from bot.core.models import ModelCard
from bot.errors import (
    CompletionError,
    ModelBusy,
    ModelFailed,
    ModelLimited,
    ModelRefused,
    ModelRejected,
    ModelStalled,
    ModelTimeout,
    ModelUnknown,
    ModelUnreachable,
    ModelWordless,
    PromptTooLongForModel,
    Truncated,
)
from bot.llm.stream import MAX_EVENT, UNREADABLE, CompletionStream, ErrorObject, named
from bot.trust import trust

_LONGEST: Final = 200  # characters of anything foreign in a log line
_WORDLESS: Final = 10  # stall timeouts without a word: a model may think for minutes
_KINDS: Final[dict[int, type[CompletionError]]] = {
    HTTPStatus.NOT_FOUND: ModelUnknown,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: PromptTooLongForModel,
    HTTPStatus.UNPROCESSABLE_ENTITY: ModelRejected,
    HTTPStatus.TOO_MANY_REQUESTS: ModelLimited,
    HTTPStatus.SERVICE_UNAVAILABLE: ModelBusy,
}
# What names the context's length among an error's codes: OpenAI, llama.cpp, vLLM.
_TOO_LONG: Final = {"context_length_exceeded", "exceed_context_size_error", "input_tokens"}


class OpenAIModel:
    """The Model port, spoken to one backend.

    Only what is configured counts: neither proxies nor keys are taken from the environment, and
    no redirect is followed, for it would carry the conversation to another host.

    Attributes:
        listed: the models' ids and aliases, as the last `check` found them; empty where unknown.
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
            base_url: ends where `/chat/completions` is appended, mostly in `/v1`.
            api_key: the bearer token; None where the backend asks for none.
            connect_timeout: seconds for DNS, proxy, TCP and TLS together.
            stall_timeout: seconds without a byte before ModelTimeout or ModelStalled; without a
                word, whatever else may come, it is ten times as long.
            proxy: `http://` or `https://` URL, credentials included; None to connect directly.
            ca_bundle: PEM file, trusted besides the system's authorities.
        """
        self.listed: frozenset[str] = frozenset()
        self._lengths: dict[str, int] = {}
        self._connect_timeout = connect_timeout
        self._wordless = _WORDLESS * stall_timeout
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",  # without one the SDK takes OPENAI_API_KEY or refuses
            max_retries=0,
            # aiohttp's `pool` is the one limit that covers DNS and a proxy's CONNECT too.
            timeout=httpx2.Timeout(stall_timeout, connect=connect_timeout, pool=connect_timeout),
            http_client=openai.DefaultAioHttpClient(
                follow_redirects=False,
                # No connection is used twice: the backend may have closed it (llama.cpp does
                # after every stream, without a word), and a POST is not sent again.
                limits=httpx2.Limits(max_connections=1000, keepalive_expiry=0.0),
                proxy=proxy,
                trust_env=False,
                verify=trust(ca_bundle),
            ),
        )
        # Here and not in `stream`: the SDK imports its resources at their first use.
        self._completions = self._client.chat.completions.with_streaming_response

    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        """Yield the completion as it comes; whatever ends it too early raises CompletionError."""
        events = CompletionStream()
        with _completion_errors(events):
            async with (
                aclosing(self._read(turns, card, events)) as read,
                aclosing(_with_words(read, self._wordless)) as deltas,
            ):
                async for delta in deltas:
                    yield delta
        events.close()

    async def _read(
        self, turns: Sequence[Turn], card: ModelCard, events: CompletionStream
    ) -> AsyncGenerator[Delta, None]:
        async with (
            self._completions.create(
                model=card.id,
                messages=[],  # the SDK would turn over each of them, 0.3 ms a turn
                extra_body={"messages": _messages(turns)},
                temperature=openai.omit if card.temperature is None else card.temperature,
                max_completion_tokens=card.longest_completion(self.context_length(card)),
                stream=True,
                stream_options={"include_usage": True},
            ) as response,
            aclosing(response.http_response.aiter_bytes()) as body,
        ):
            if not _is_event_stream(response.headers):
                for delta in events.read_whole(await _whole(body)):
                    yield delta
                return
            async for data in body:
                for delta in events.feed(data):
                    yield delta
                if events.done:
                    return

    def context_length(self, card: ModelCard) -> int:
        """Return the tokens of request and completion together, the card's where not listed."""
        return self._lengths.get(card.id, card.context_length)

    async def check(self) -> None:
        """Ask for the list of models and keep it; CompletionError where the backend is down.

        A backend that has no such list (404) passes: only a completion would tell more.
        """
        with _completion_errors(CompletionStream()), suppress(openai.NotFoundError):
            quick = self._client.with_options(timeout=self._connect_timeout)
            response = await quick.get("/models", cast_to=httpx2.Response)
            models = [(model, {model.id, *model.aliases}) for model in _listed(response.content)]
            self.listed = frozenset().union(*(names for _, names in models))
            self._lengths = {
                name: model.length for model, names in models if model.length for name in names
            }

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


async def _with_words(
    deltas: AsyncGenerator[Delta, None], patience: float
) -> AsyncGenerator[Delta, None]:
    """Yield the deltas, and raise ReadTimeout after so many seconds of them without a word.

    Each comment and each hidden thought begins the stall timeout anew: a backend might go on so.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + patience
    try:
        while True:
            async with asyncio.timeout_at(end):
                delta = await anext(deltas, None)
            if delta is None:
                return
            yield delta
            if delta.text:
                end = clock() + patience
    except TimeoutError as error:
        raise httpx2.ReadTimeout("no word came in time") from error


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


@contextmanager
def _completion_errors(events: CompletionStream) -> Iterator[None]:
    """Turn the SDK's errors into ours; the SDK raises its own only until the headers are there.

    A connection that is lost once the model has said that it is done costs nothing.
    """
    try:
        yield
    except openai.APIStatusError as error:
        # `from None`: the SDK's error holds the answer's body, which may repeat the request.
        raise _refusal(error.response) from None
    except openai.APIConnectionError as error:
        raise _no_answer(error) from error
    except httpx2.RequestError as error:
        if not events.finished:
            raise _interruption(error, events) from error
    except aiohttp.ClientError as error:
        # The SDK's adapter maps all of aiohttp's errors but this: an answer that is no HTTP.
        # `from None`: it quotes the answer.
        raise ModelFailed(f"the backend does not speak HTTP: {type(error).__name__}") from None


def _refusal(response: httpx2.Response) -> CompletionError:
    """Return the error for a status other than 2xx."""
    body = _body(response)
    kind = _KINDS.get(response.status_code)
    if isinstance(body.error, ErrorObject) and not _TOO_LONG.isdisjoint(body.error.words):
        kind = PromptTooLongForModel
    if kind is None:
        kind = ModelFailed if response.is_server_error else ModelRefused
    message = f"the backend answered {response.status_code}{_detail(body)}"
    return kind(message, _retry_after(response.headers))


def _no_answer(error: openai.APIConnectionError) -> CompletionError:
    """Return the error for a request that got no answer at all.

    The SDK's aiohttp adapter calls refused, DNS and reset a timeout as well: only httpx2's
    ReadTimeout is one.
    """
    cause = error.__cause__ or error
    if isinstance(cause, httpx2.ReadTimeout):
        return ModelTimeout("the backend did not begin to answer in time")
    return ModelUnreachable(f"no connection to the backend: {cause.__cause__ or cause}")


def _interruption(error: httpx2.RequestError, events: CompletionStream) -> CompletionError:
    """Return the error for an answer that stopped; a reset comes as a ConnectTimeout here."""
    if not isinstance(error, httpx2.ReadTimeout):
        return Truncated(f"the connection was lost inside the stream: {error}")
    if events.begun:
        return ModelStalled("the stream stalled")
    return ModelWordless("the stream began with no word in time")


class _InvalidField(msgspec.Struct):
    """One entry of FastAPI's 422; `msg` and `input` may repeat the request: no fields here."""

    loc: list[str | int] = []
    type: str = ""


class _Refusal(msgspec.Struct):
    """The body of a 4xx or 5xx: FastAPI's `detail`, or the OpenAI API's `error`."""

    detail: str | list[_InvalidField] | None = None
    error: ErrorObject | str | None = None


def _body(response: httpx2.Response) -> _Refusal:
    try:
        return msgspec.json.decode(response.content, type=_Refusal)
    except UNREADABLE:
        return _Refusal()


def _detail(body: _Refusal) -> str:
    """Return what of the refusal is safe to log: codes and fields, never free words."""
    if isinstance(body.detail, list):
        fields = (".".join(map(str, field.loc))[:_LONGEST] for field in body.detail)
        return f" (not valid: {', '.join(fields)})"
    return named(body.error)


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, section 10.2.3)."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value).replace(tzinfo=UTC)
    except ValueError:
        return None
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)


def _is_event_stream(headers: httpx2.Headers) -> bool:
    """Tell an event stream from JSON, which a whole completion may be; all else is ModelFailed."""
    content_type = headers.get("content-type", "")
    if content_type.lower().startswith("text/event-stream"):
        return True
    if content_type.lower().startswith("application/json"):
        return False
    raise ModelFailed(f"the answer is no event stream but {content_type[:_LONGEST]!r}")


async def _whole(body: AsyncIterator[bytes]) -> bytes:
    whole = bytearray()
    async for data in body:
        whole += data
        if len(whole) > MAX_EVENT:
            raise ModelFailed(f"the answer has more than {MAX_EVENT} bytes")
    return bytes(whole)


class _Listed(msgspec.Struct):
    """One model of the backend's list: Albert and Mistral say one length, vLLM the other."""

    id: str
    aliases: list[str] = []
    max_context_length: int | None = None
    max_model_len: int | None = None

    @property
    def length(self) -> int | None:
        """Tokens of request and completion together, None or 0 where the backend does not say."""
        return self.max_context_length or self.max_model_len


class _Listing(msgspec.Struct):
    data: list[msgspec.Raw] = []


def _listed(body: bytes) -> Iterator[_Listed]:
    """Yield the models of a list; what cannot be read costs nothing but itself."""
    with suppress(*UNREADABLE):
        for raw in msgspec.json.decode(body, type=_Listing).data:
            with suppress(*UNREADABLE):
                yield msgspec.json.decode(raw, type=_Listed)
