"""The mapping from matrix-nio's failures, returned or raised, to the bot's errors."""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final, TypeVar

import aiohttp
import nio
from aiohttp_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError

from bot.errors import (
    Absent,
    AccountExpired,
    Forbidden,
    HomeserverUnreachable,
    LoggedOut,
    MatrixError,
    NotFound,
    NotMatrix,
    OtherBackup,
    RateLimited,
    SoftLogout,
    TooLarge,
)

Ok = TypeVar("Ok", bound=nio.Response)

# Errors raised for malformed input. vodozemac's are ValueErrors; nio's own code raises the others.
MALFORMED = (
    *(ValueError, AssertionError, AttributeError, LookupError, TypeError),
    RecursionError,  # JSON with some thousand levels
    *(nio.EncryptionError, nio.exceptions.VerificationError),
)

_DEFAULT_RETRY_AFTER: Final = 5.0  # seconds, if a 429 does not say
_LONGEST_RETRY_AFTER: Final = 600.0  # seconds; no limit of Synapse's needs more
# Errors that end when an administrator acts, or when a person agrees to the terms of use.
_HELD_UP = {
    "M_CONSENT_NOT_GIVEN",
    "M_RESOURCE_LIMIT_EXCEEDED",
    "M_USER_LOCKED",
    "M_USER_SUSPENDED",
}
_KINDS: dict[str, type[MatrixError]] = {
    "ORG_MATRIX_EXPIRED_ACCOUNT": AccountExpired,
    "M_FORBIDDEN": NotFound,
    "M_NOT_FOUND": Absent,
    "M_WRONG_ROOM_KEYS_VERSION": OtherBackup,
    "M_TOO_LARGE": TooLarge,
}


async def call(expected: type[Ok], request: Awaitable[object]) -> Ok:
    """Await one request of nio's client and return its response.

    Raises:
        MatrixError: the most specific class for any other response.
    """
    with mapped_errors():
        response = await request
    if isinstance(response, expected):
        return response
    if isinstance(response, nio.ErrorResponse):
        raise _failure(response)
    raise MatrixError(f"{type(response).__name__} came back instead of {expected.__name__}")


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Convert what nio raises inside the block to the most specific MatrixError."""
    try:
        yield
    except (*_PROXY, EOFError) as error:
        raise HomeserverUnreachable(f"matrix.proxy {_proxy_failure(error)}") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        plain = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
        # aiohttp quotes a response that is not HTTP: its text must not reach the log.
        quotes = isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError)
        reason = ("" if quotes else str(plain)) or type(error).__name__
        raise HomeserverUnreachable(f"the homeserver does not answer: {reason}") from error
    except (nio.GroupEncryptionError, nio.SendRetryError, nio.MembersSyncError) as error:
        # The room's key was dropped before the send could use it, because the members changed.
        raise HomeserverUnreachable(f"the room's key is not shared: {error}") from error
    except nio.ProtocolError as error:
        if "Not logged in" in str(error):  # nio drops the token at a soft logout
            raise SoftLogout("the homeserver has ended the session") from error
        raise MatrixError(str(error)) from error


# aiohttp-socks wraps the errors of python-socks in classes without a common base. A SOCKS proxy
# that closes the connection early raises asyncio's IncompleteReadError, an EOFError.
_PROXY: Final = (ProxyConnectionError, ProxyError, ProxyTimeoutError)


def _proxy_failure(error: Exception) -> str:
    """Return what went wrong with the proxy, without the proxy's own text."""
    match error:
        case ProxyConnectionError():
            # raised by python-socks; its own cause is the socket's error
            wrapped = error.__cause__
            reason = getattr(getattr(wrapped, "__cause__", None), "strerror", None)
            return f"cannot be reached: {reason or 'no connection'}"
        case ProxyTimeoutError():
            return "does not answer in time"
        case ProxyError(error_code=int() as code):
            return f"refuses the connection: {code}"
        case ProxyError():
            return "does not answer as a proxy does"
        case _:
            return "has closed the connection"


def _failure(response: nio.ErrorResponse) -> MatrixError:
    # a response of aiohttp; nio's type hint is wrong
    status = getattr(response.transport_response, "status", 0)
    code = response.status_code
    message = f"HTTP {status} {code or ''} {response.message}".replace("  ", " ")
    if status == HTTPStatus.TOO_MANY_REQUESTS or code == "M_LIMIT_EXCEEDED":
        return RateLimited(message, _retry_after(response.retry_after_ms))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in _HELD_UP:
        return HomeserverUnreachable(message)
    if code == "M_MISSING_TOKEN":  # nio drops the token at a soft logout
        return SoftLogout(message)
    if code == "M_UNKNOWN_TOKEN":
        return SoftLogout(message) if response.soft_logout else LoggedOut(message)
    # a proxy may send this status without a code
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        code = code or "M_TOO_LARGE"
    if code:
        return _KINDS.get(code, Forbidden)(message)
    return NotMatrix(f"{message}: this is no Matrix answer")


def _retry_after(milliseconds: object) -> float:
    """Return the seconds to wait, within limits, whatever the homeserver has sent."""
    if not isinstance(milliseconds, int | float) or not milliseconds >= 0:  # false for NaN as well
        return _DEFAULT_RETRY_AFTER
    return min(milliseconds, 1000 * _LONGEST_RETRY_AFTER) / 1000
