"""The one mapping from matrix-nio's failures, which it returns or raises, to our errors."""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

import aiohttp
import nio
from python_socks import ProxyError

from bot.errors import (
    AccountExpired,
    Forbidden,
    HomeserverUnreachable,
    LoggedOut,
    MatrixError,
    NotFound,
    NotMatrix,
    RateLimited,
    TooLarge,
)

Ok = TypeVar("Ok", bound=nio.Response)

_DEFAULT_RETRY_AFTER = 5.0  # seconds, where a 429 does not say
# What an administrator puts an end to, or a person who agrees to the terms of use.
_HELD_UP = {
    "M_CONSENT_NOT_GIVEN",
    "M_RESOURCE_LIMIT_EXCEEDED",
    "M_USER_LOCKED",
    "M_USER_SUSPENDED",
}
_KINDS: dict[str, type[MatrixError]] = {
    "ORG_MATRIX_EXPIRED_ACCOUNT": AccountExpired,
    "M_FORBIDDEN": NotFound,
    "M_NOT_FOUND": NotFound,
    "M_TOO_LARGE": TooLarge,
}


async def call(expected: type[Ok], request: Awaitable[object]) -> Ok:
    """Await one request of nio's client and return its answer.

    Raises:
        MatrixError: the most specific one, for whatever else came back.
    """
    with named():
        response = await request
    if isinstance(response, expected):
        return response
    if isinstance(response, nio.ErrorResponse):
        raise _failure(response)
    raise MatrixError(f"{type(response).__name__} came back instead of {expected.__name__}")


@contextmanager
def named() -> Iterator[None]:
    """Turn what nio raises inside the block into the most specific MatrixError."""
    try:
        yield
    except (aiohttp.ClientError, ProxyError, TimeoutError, OSError) as error:
        plain = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
        # What is no HTTP is quoted by aiohttp: it may be anybody's words.
        quotes = isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError)
        reason = ("" if quotes else str(plain)) or type(error).__name__
        raise HomeserverUnreachable(f"the homeserver does not answer: {reason}") from error
    except (nio.GroupEncryptionError, nio.SendRetryError, nio.MembersSyncError) as error:
        # The room's key was let go again before the send could use it: its members have changed.
        raise HomeserverUnreachable(f"the room's key is not shared: {error}") from error
    except nio.ProtocolError as error:
        if "Not logged in" in str(error):  # nio forgets the token at a soft logout
            raise LoggedOut("the homeserver has ended the session", soft=True) from error
        raise MatrixError(str(error)) from error


def _failure(response: nio.ErrorResponse) -> MatrixError:
    status = getattr(response.transport_response, "status", 0)  # aiohttp's; nio hints its own
    code = response.status_code
    message = f"HTTP {status} {code or ''} {response.message}".replace("  ", " ")
    if status == HTTPStatus.TOO_MANY_REQUESTS or code == "M_LIMIT_EXCEEDED":
        wait = response.retry_after_ms
        return RateLimited(message, _DEFAULT_RETRY_AFTER if wait is None else wait / 1000)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _HELD_UP:
        return HomeserverUnreachable(message)
    if code == "M_MISSING_TOKEN":  # nio forgets the token at a soft logout
        return LoggedOut(message, soft=True)
    if code == "M_UNKNOWN_TOKEN":
        return LoggedOut(message, soft=bool(response.soft_logout))
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:  # or a proxy's word, which has no code
        code = code or "M_TOO_LARGE"
    if code:
        return _KINDS.get(code, Forbidden)(message)
    return NotMatrix(f"{message}: this is no Matrix answer")
