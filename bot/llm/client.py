"""The model: one streamed chat completion of an OpenAI-compatible backend, its failures named."""

from collections.abc import AsyncGenerator, Iterator, Sequence
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
from bot.errors import (
    CompletionError,
    ModelBusy,
    ModelFailed,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    Truncated,
)
from bot.llm.stream import CompletionStream, ErrorObject, named
from bot.trust import trust

_LONGEST: Final = 200  # characters of anything foreign in a log line


class OpenAIModel:
    """The Model port, spoken to one backend.

    Only what is configured counts: neither proxies nor keys are taken from the environment, and
    no redirect is followed, for it would carry the conversation to another host.
    """

    def __init__(  # noqa: PLR0913  # one plain value for each setting of the model's section
        self,
        *,
        base_url: str,
        api_key: str | None,
        model: str,
        temperature: float | None,
        max_tokens: int | None,
        connect_timeout: float,
        stall_timeout: float,
        proxy: str | None,
        ca_bundle: Path | None,
    ) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            base_url: ends where `/chat/completions` is appended, mostly in `/v1`.
            api_key: the bearer token; None where the backend asks for none.
            model: the model's name, as the backend lists it.
            temperature: None for the backend's own.
            max_tokens: of the completion; None for the backend's own limit.
            connect_timeout: seconds for DNS, proxy, TCP and TLS together.
            stall_timeout: seconds without a byte before ModelTimeout.
            proxy: `http://` or `https://` URL, credentials included; None to connect directly.
            ca_bundle: PEM file, trusted besides the system's authorities.
        """
        self._model = model
        self._connect_timeout = connect_timeout
        self._temperature = openai.omit if temperature is None else temperature
        self._max_tokens = openai.omit if max_tokens is None else max_tokens
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

    async def stream(self, turns: Sequence[Turn]) -> AsyncGenerator[Delta, None]:
        """Yield the completion as it comes; whatever ends it too early raises CompletionError."""
        events = CompletionStream()
        with _completion_errors(events):
            async with (
                self._completions.create(
                    model=self._model,
                    messages=[],  # the SDK would turn over each of them, 0.3 ms a turn
                    extra_body={"messages": _messages(turns)},
                    temperature=self._temperature,
                    max_completion_tokens=self._max_tokens,
                    stream=True,
                    stream_options={"include_usage": True},
                ) as response,
                aclosing(response.http_response.aiter_bytes()) as body,
            ):
                _require_event_stream(response.headers)
                async for data in body:
                    for delta in events.feed(data):
                        yield delta
                    if events.done:
                        return
        events.close()

    async def check(self) -> None:
        """Ask for the list of models; CompletionError where the backend is not usable now.

        A backend that has no such list (404) passes: only a completion would tell more.
        """
        with _completion_errors(CompletionStream()), suppress(openai.NotFoundError):
            quick = self._client.with_options(timeout=self._connect_timeout)
            await quick.get("/models", cast_to=httpx2.Response)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


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
            raise _interruption(error) from error
    except aiohttp.ClientError as error:
        # The SDK's adapter maps all of aiohttp's errors but this: an answer that is no HTTP.
        # `from None`: it quotes the answer.
        raise ModelFailed(f"the backend does not speak HTTP: {type(error).__name__}") from None


def _refusal(response: httpx2.Response) -> CompletionError:
    """Return the error for a status other than 2xx."""
    message = f"the backend answered {response.status_code}{_detail(response)}"
    if response.status_code in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return ModelBusy(message, _retry_after(response.headers))
    return ModelFailed(message) if response.is_server_error else ModelRefused(message)


def _no_answer(error: openai.APIConnectionError) -> CompletionError:
    """Return the error for a request that got no answer at all.

    The SDK's aiohttp adapter calls refused, DNS and reset a timeout as well: only httpx2's
    ReadTimeout is one.
    """
    cause = error.__cause__ or error
    if isinstance(cause, httpx2.ReadTimeout):
        return ModelTimeout("the backend did not begin to answer in time")
    return ModelUnreachable(f"no connection to the backend: {cause.__cause__ or cause}")


def _interruption(error: httpx2.RequestError) -> CompletionError:
    """Return the error for an answer that stopped; a reset comes as a ConnectTimeout here."""
    if isinstance(error, httpx2.ReadTimeout):
        return ModelTimeout("the stream stalled")
    return Truncated(f"the connection was lost inside the stream: {error}")


class _InvalidField(msgspec.Struct):
    """One entry of FastAPI's 422; `msg` and `input` may repeat the request: no fields here."""

    loc: list[str | int] = []
    type: str = ""


class _Refusal(msgspec.Struct):
    """The body of a 4xx or 5xx: FastAPI's `detail`, or the OpenAI API's `error`."""

    detail: str | list[_InvalidField] | None = None
    error: ErrorObject | str | None = None


def _detail(response: httpx2.Response) -> str:
    """Return what of the refusal is safe to log: codes and fields, never free words."""
    try:
        body = msgspec.json.decode(response.content, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
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


def _require_event_stream(headers: httpx2.Headers) -> None:
    content_type = headers.get("content-type", "")
    if not content_type.lower().startswith("text/event-stream"):
        raise ModelFailed(f"the answer is no event stream but {content_type[:_LONGEST]!r}")
