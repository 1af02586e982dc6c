"""The model: one streamed chat completion of an OpenAI-compatible backend, its failures named."""

import asyncio
import re
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
import structlog

from bot.core.chat import Delta, FinishDelta, TextDelta, Turn
from bot.core.model_catalog import ModelCard
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
from bot.llm.request import messages
from bot.llm.sse import (
    MAX_EVENT,
    MOST_TOKENS,
    UNREADABLE,
    CompletionStream,
    ErrorObject,
    named,
    plain,
)
from bot.runtime.tls import tls_context

_LONGEST_REFUSAL: Final = 64 * 1024  # bytes of a refusal that are read, for its codes
_LONGEST_LIST: Final = 4 * MAX_EVENT  # bytes of the list of models
_CHARACTERS: Final = 8  # of one token; a longest completion has hardly half as many
_PIECE: Final = 16 * 1024  # bytes that are read before others get their turn
_LATE: Final = 5.0  # seconds for what comes when the model is done, and for a refusal's body
_LONGEST_RETRY_AFTER: Final = 7 * 86_400.0  # seconds; no quota is longer
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
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z]{1,20}/[A-Za-z0-9.+-]{1,40}")
_FIELDS: Final = 5  # of a request that a refusal may name in the log

log = structlog.get_logger()


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
            connect_timeout: seconds for DNS, proxy, TCP and TLS together; for the list of models
                as long again.
            stall_timeout: seconds without a byte before ModelTimeout or ModelStalled; without a
                word, whatever else may come, it is ten times as long.
            proxy: `http://` or `https://` URL, credentials included; None to connect directly.
            ca_bundle: PEM file, trusted besides the system's authorities.
        """
        self.listed: frozenset[str] = frozenset()
        self._lengths: dict[str, int] = {}
        self._connect_timeout = connect_timeout
        self._late = min(_LATE, stall_timeout)
        self._wordless = _WORDLESS * stall_timeout
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",  # without one the SDK takes OPENAI_API_KEY or refuses
            max_retries=0,
            # aiohttp's `pool` is the one limit that covers DNS and a proxy's CONNECT too.
            timeout=httpx2.Timeout(stall_timeout, connect=connect_timeout, pool=connect_timeout),
            http_client=openai.DefaultAioHttpClient(
                event_hooks={"response": [_refuse]},
                follow_redirects=False,
                headers={"Accept-Encoding": "identity"},  # what is packed comes late, or is a bomb
                # No connection is used twice: the backend may have closed it (llama.cpp does
                # after every stream, without a word), and a POST is not sent again.
                limits=httpx2.Limits(max_connections=1000, keepalive_expiry=0.0),
                proxy=proxy,
                trust_env=False,
                verify=tls_context(ca_bundle),
            ),
        )
        # Here and not in `stream`: the SDK imports its resources at their first use.
        self._completions = self._client.chat.completions.with_streaming_response

    async def stream(self, turns: Sequence[Turn], card: ModelCard) -> AsyncGenerator[Delta, None]:
        """Yield the completion as it comes; whatever ends it too early raises CompletionError."""
        longest = card.longest_completion(self.context_length(card))
        events = CompletionStream(_CHARACTERS * longest)
        with _completion_errors(events):
            async with (
                aclosing(self._read(turns, card, events)) as read,
                aclosing(_with_words(read, self._wordless, self._late)) as deltas,
            ):
                async for delta in deltas:
                    yield delta
        events.close()
        if events.cut:  # it does not heed `max_completion_tokens`
            log.warning("endless completion cut", model=card.id, characters=_CHARACTERS * longest)

    async def _read(
        self, turns: Sequence[Turn], card: ModelCard, events: CompletionStream
    ) -> AsyncGenerator[Delta, None]:
        async with (
            self._completions.create(
                model=card.id,
                messages=[],  # the SDK would turn over each of them, 0.3 ms a turn
                extra_body={"messages": messages(turns)},
                temperature=openai.omit if card.temperature is None else card.temperature,
                max_completion_tokens=card.longest_completion(self.context_length(card)),
                stream=True,
                stream_options={"include_usage": True},
            ) as response,
            aclosing(_pieces(response.http_response)) as body,
        ):
            if not _is_event_stream(response.headers):
                completion = await _up_to(MAX_EVENT + 1, body)
                if len(completion) > MAX_EVENT:
                    raise ModelFailed(f"the answer has more than {MAX_EVENT} bytes")
                for delta in events.read_whole(completion):
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
        with _completion_errors(CompletionStream()), suppress(ModelUnknown):
            models = [(model, {model.id, *model.aliases}) for model in _listed(await self._list())]
            self.listed = frozenset().union(*(names for _, names in models))
            self._lengths = {
                name: model.length for model, names in models if model.length for name in names
            }

    async def _list(self) -> bytes:
        """Return the list of models, or as much of it as is read."""
        quick = self._client.with_options(timeout=self._connect_timeout)
        try:
            async with (
                asyncio.timeout(2 * self._connect_timeout),
                quick.models.with_streaming_response.list() as response,
                aclosing(_pieces(response.http_response)) as body,
            ):
                return await _up_to(_LONGEST_LIST, body)
        except TimeoutError as error:
            raise ModelTimeout("the list of models did not come in time") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


async def _with_words(
    deltas: AsyncGenerator[Delta, None], patience: float, late: float
) -> AsyncGenerator[Delta, None]:
    """Yield the deltas, and raise ReadTimeout after so many seconds of them without a word.

    Each comment and each hidden thought begins the stall timeout anew: a backend might go on so.

    Args:
        deltas: of one completion.
        patience: seconds.
        late: seconds for what still comes when the model has said that it is done.
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
            if isinstance(delta, TextDelta):
                end = clock() + patience
            elif isinstance(delta, FinishDelta):
                end = clock() + late
    except TimeoutError as error:
        raise httpx2.ReadTimeout("no word came in time") from error


@contextmanager
def _completion_errors(events: CompletionStream) -> Iterator[None]:
    """Turn the SDK's errors into ours; the SDK raises its own only until the headers are there.

    A connection that is lost once the model has said that it is done costs nothing.
    """
    try:
        yield
    except openai.APIConnectionError as error:
        raise _no_answer(error) from error
    except httpx2.RequestError as error:
        if not events.finished:
            raise _interruption(error, events) from error
    except aiohttp.ClientError as error:
        # The SDK's adapter maps all of aiohttp's errors but this: an answer that is no HTTP.
        # `from None`: it quotes the answer.
        raise ModelFailed(f"the backend does not speak HTTP: {type(error).__name__}") from None


async def _refuse(response: httpx2.Response) -> None:
    """Raise the error for a status other than 2xx, before the SDK reads all of its body."""
    if response.is_success:
        return
    body = bytearray()
    with suppress(TimeoutError, httpx2.RequestError, aiohttp.ClientError):  # only codes are lost
        async with asyncio.timeout(_LATE), aclosing(_pieces(response)) as pieces:
            body += await _up_to(_LONGEST_REFUSAL, pieces)
    raise _refusal(response, bytes(body)) from None


def _refusal(response: httpx2.Response, content: bytes) -> CompletionError:
    body = _body(content)
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
    return ModelUnreachable(f"no connection to the backend: {_told(cause)}")


def _interruption(error: httpx2.RequestError, events: CompletionStream) -> CompletionError:
    """Return the error for an answer that stopped; a reset comes as a ConnectTimeout here."""
    if not isinstance(error, httpx2.ReadTimeout):
        return Truncated(f"the connection was lost inside the stream: {_told(error)}")
    if events.begun:
        return ModelStalled("the stream stalled")
    return ModelWordless("the stream began with no word in time")


def _told(error: BaseException) -> str:
    """Return the error's words where they are the system's; the others may quote the answer."""
    cause = error.__cause__ or error
    ours = isinstance(cause, OSError | aiohttp.ClientHttpProxyError)
    return str(cause) if ours else type(cause).__name__


class _InvalidField(msgspec.Struct):
    """One entry of FastAPI's 422; `msg` and `input` may repeat the request: no fields here."""

    loc: list[str | int] = []
    type: str = ""


class _Refusal(msgspec.Struct):
    """The body of a 4xx or 5xx: FastAPI's `detail`, or the OpenAI API's `error`."""

    detail: str | list[_InvalidField] | None = None
    error: ErrorObject | str | None = None


def _body(content: bytes) -> _Refusal:
    try:
        return msgspec.json.decode(content, type=_Refusal)
    except UNREADABLE:
        return _Refusal()


def _detail(body: _Refusal) -> str:
    """Return what of the refusal is safe to log: codes and fields, never free words."""
    if isinstance(body.detail, list):
        fields = (".".join(plain(field.loc)) for field in body.detail[:_FIELDS])
        return f" (not valid: {', '.join(fields)})"
    return named(body.error)


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, section 10.2.3)."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return min(float(value), _LONGEST_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(value).replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter of a time zone that is too far away
        return None
    seconds = (date - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


def _is_event_stream(headers: httpx2.Headers) -> bool:
    """Tell an event stream from JSON, which a whole completion may be; all else is ModelFailed."""
    content_type = headers.get("content-type", "")
    if content_type.lower().startswith("text/event-stream"):
        return True
    if content_type.lower().startswith("application/json"):
        return False
    found = _MEDIA_TYPE.match(content_type)
    raise ModelFailed(f"the answer is no event stream but {found[0] if found else 'none'!r}")


async def _pieces(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield the body in pieces, and let others run between them.

    A read that finds bytes waits for nothing, and what is packed unpacks to a thousand times its
    size, 1 MB at once.
    """
    size = 0
    async with aclosing(response.aiter_bytes()) as body:
        async for data in body:
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                yield piece
                size += len(piece)
                if size >= _PIECE:
                    size = 0
                    await asyncio.sleep(0)


async def _up_to(limit: int, pieces: AsyncIterator[bytes]) -> bytes:
    """Return the first bytes of a body, which may have no end."""
    found = bytearray()
    async for piece in pieces:
        found += piece
        if len(found) >= limit:
            break
    del found[limit:]
    return bytes(found)


class _Listed(msgspec.Struct):
    """One model of the backend's list: Albert and Mistral say one length, vLLM the other."""

    id: str
    aliases: list[str] = []
    max_context_length: int | None = None
    max_model_len: int | None = None

    @property
    def length(self) -> int | None:
        """Tokens of request and completion together, None where the backend does not say."""
        lengths = (self.max_context_length, self.max_model_len)
        return next((one for one in lengths if one and 0 < one <= MOST_TOKENS), None)


class _Listing(msgspec.Struct):
    data: list[msgspec.Raw] = []


def _listed(body: bytes) -> Iterator[_Listed]:
    """Yield the models of a list; what cannot be read costs nothing but itself."""
    with suppress(*UNREADABLE):
        for raw in msgspec.json.decode(body, type=_Listing).data:
            with suppress(*UNREADABLE):
                yield msgspec.json.decode(raw, type=_Listed)
