"""What the homeserver refuses, as errors of ours."""

import math
from types import SimpleNamespace
from typing import cast

import nio
import pytest

from bot.errors import (
    Absent,
    AccountExpired,
    Forbidden,
    HomeserverUnreachable,
    LoggedOut,
    MatrixError,
    NotFound,
    NotMatrix,
    RateLimited,
    SoftLogout,
    TooLarge,
)
from bot.matrix.error_mapping import call


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "M_LIMIT_EXCEEDED", RateLimited),
        (429, None, RateLimited),
        (500, "M_UNKNOWN", HomeserverUnreachable),
        (503, None, HomeserverUnreachable),
        (403, "M_CONSENT_NOT_GIVEN", HomeserverUnreachable),
        (403, "M_RESOURCE_LIMIT_EXCEEDED", HomeserverUnreachable),
        (403, "M_USER_SUSPENDED", HomeserverUnreachable),
        (401, "M_USER_LOCKED", HomeserverUnreachable),
        (401, "M_UNKNOWN_TOKEN", LoggedOut),
        (401, "M_MISSING_TOKEN", SoftLogout),
        (403, "ORG_MATRIX_EXPIRED_ACCOUNT", AccountExpired),
        (403, "M_FORBIDDEN", NotFound),
        (404, "M_NOT_FOUND", Absent),
        (404, "M_UNRECOGNIZED", Forbidden),
        (400, "M_UNKNOWN", Forbidden),
        (413, None, TooLarge),
        (413, "M_TOO_LARGE", TooLarge),
        (400, "M_TOO_LARGE", TooLarge),
        (404, None, NotMatrix),
        (200, None, NotMatrix),
    ],
)
async def test_a_refusal_is_for_good_or_is_waited_out(
    status: int, code: str | None, kind: type[MatrixError]
) -> None:
    refusal = nio.ErrorResponse("no", code)
    refusal.transport_response = SimpleNamespace(status=status)  # type: ignore[assignment]  # all that is read of it

    async def answer() -> nio.ErrorResponse:
        return refusal

    with pytest.raises(MatrixError) as raised:
        await call(nio.WhoamiResponse, answer())

    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, 5),
        (0, 0),
        (2_500, 2.5),
        (10**15, 600),
        (10**400, 600),
        (1e300, 600),
        (-1, 5),
        (math.nan, 5),
        ("soon", 5),
    ],
)
async def test_nobody_waits_longer_than_a_homeserver_can_mean(
    said: object, seconds: float
) -> None:
    refusal = nio.ErrorResponse("no", "M_LIMIT_EXCEEDED", cast("int", said))
    refusal.transport_response = SimpleNamespace(status=429)  # type: ignore[assignment]  # as above

    async def answer() -> nio.ErrorResponse:
        return refusal

    with pytest.raises(RateLimited) as raised:
        await call(nio.WhoamiResponse, answer())

    assert raised.value.retry_after == seconds
