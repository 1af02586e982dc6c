"""Errors of the SDK, of HTTP and of the connection become CompletionErrors.

No message quotes what the backend wrote but for its codes: it may repeat the conversation or the
key.
"""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import aiohttp
import httpx2
import msgspec
import openai

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
from bot.llm.chunks import UNREADABLE, ErrorObject, describe, loggable
from bot.llm.response_body import pieces, read_at_most
from bot.llm.sse import CompletionStream

_LONGEST_BODY: Final = 64 * 1024  # bytes of a refusal that are read, for its codes
_BODY_TIMEOUT: Final = 5.0  # seconds for them
_LONGEST_RETRY_AFTER: Final = 7 * 86_400.0  # seconds; no quota is longer
_FIELDS: Final = 5  # of a request that a refusal may name in the log
_ERRORS: Final[dict[int, type[CompletionError]]] = {
    HTTPStatus.NOT_FOUND: ModelUnknown,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: PromptTooLongForModel,
    HTTPStatus.UNPROCESSABLE_ENTITY: ModelRejected,
    HTTPStatus.TOO_MANY_REQUESTS: ModelLimited,
    HTTPStatus.SERVICE_UNAVAILABLE: ModelBusy,
}
# Codes of a request that is too long for the model: OpenAI's
# (https://platform.openai.com/docs/guides/error-codes), llama.cpp's
# (https://github.com/ggml-org/llama.cpp/pull/15780), and vLLM's, which is the name of a parameter.
_TOO_LONG: Final = {"context_length_exceeded", "exceed_context_size_error", "input_tokens"}


@contextmanager
def completion_errors(stream: CompletionStream) -> Iterator[None]:
    """Turn errors of the SDK and of the connection into CompletionErrors.

    The SDK raises its own errors only until the headers have come. A connection that is lost after
    the model has said that it is done is no error. TimeoutError is the reader's own: no word came
    in time.
    """
    try:
        yield
    except openai.APIConnectionError as error:
        raise _no_answer(error) from error
    except (httpx2.RequestError, TimeoutError) as error:
        if not stream.finished:
            raise _interruption(error, stream) from error
    except aiohttp.ClientError as error:
        # The SDK's transport maps all errors of aiohttp but one, for an answer that is no HTTP:
        # https://github.com/openai/openai-python/pull/3594 (`AIOHTTP_EXC_MAP`).
        # `from None`: it quotes the answer.
        raise ModelFailed(f"the backend does not speak HTTP: {type(error).__name__}") from None


async def refuse_status(response: httpx2.Response) -> None:
    """Raise the error for a status other than 2xx, before the SDK reads the whole body."""
    if response.is_success:
        return
    body = bytearray()
    # Without the body, or with a part of it, only its codes are lost.
    with suppress(TimeoutError, httpx2.RequestError, aiohttp.ClientError):
        async with asyncio.timeout(_BODY_TIMEOUT), aclosing(pieces(response)) as read:
            body += await read_at_most(_LONGEST_BODY, read)
    raise _refusal(response, bytes(body)) from None


class _InvalidField(msgspec.Struct):
    """One entry of FastAPI's 422; `msg` and `input` are left out, as they may quote the request.

    https://fastapi.tiangolo.com/tutorial/handling-errors/
    """

    loc: list[str | int] = []
    type: str = ""


class _Refusal(msgspec.Struct):
    """The body of a 4xx or 5xx: FastAPI's `detail`, or the OpenAI API's `error`."""

    detail: str | list[_InvalidField] | None = None
    error: ErrorObject | str | None = None

    @property
    def description(self) -> str:
        """What is safe to log: codes and fields."""
        if isinstance(self.detail, list):
            fields = (".".join(loggable(field.loc)) for field in self.detail[:_FIELDS])
            return f" (not valid: {', '.join(fields)})"
        return describe(self.error)


def _refusal(response: httpx2.Response, content: bytes) -> CompletionError:
    try:
        body = msgspec.json.decode(content, type=_Refusal)
    except UNREADABLE:
        body = _Refusal()
    error = _ERRORS.get(response.status_code)
    if isinstance(body.error, ErrorObject) and not _TOO_LONG.isdisjoint(body.error.codes):
        error = PromptTooLongForModel
    if error is None:
        error = ModelFailed if response.is_server_error else ModelRefused
    message = f"the backend answered {response.status_code}{body.description}"
    return error(message, _retry_after(response.headers))


def _no_answer(error: openai.APIConnectionError) -> CompletionError:
    """Return the error for a request that got no answer at all.

    The SDK's transport reports a refused connection, a failed DNS look-up and a reset as timeouts
    too (https://github.com/openai/openai-python/pull/3594): only httpx2's ReadTimeout is one.
    """
    cause = error.__cause__ or error
    if isinstance(cause, httpx2.ReadTimeout):
        return ModelTimeout("the backend did not begin to answer in time")
    return ModelUnreachable(f"no connection to the backend: {_reason(cause)}")


def _interruption(error: Exception, stream: CompletionStream) -> CompletionError:
    """Return the error for an answer that stopped.

    A reset is a ConnectTimeout here, for the reason that `_no_answer` gives.
    """
    if not isinstance(error, httpx2.ReadTimeout | TimeoutError):
        return Truncated(f"the connection was lost inside the stream: {_reason(error)}")
    if stream.begun:
        return ModelStalled("the stream stalled")
    return ModelWordless("the stream began with no word in time")


def _reason(error: BaseException) -> str:
    """Return the message of a system's or proxy's error; of others, which may quote, the class."""
    cause = error.__cause__ or error
    safe = isinstance(cause, OSError | aiohttp.ClientHttpProxyError)
    return str(cause) if safe else type(cause).__name__


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Return the seconds of a Retry-After header, None if there is none.

    https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
    """
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return min(float(value), _LONGEST_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(value).replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the latter for a time zone out of range
        return None
    seconds = (date - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)
