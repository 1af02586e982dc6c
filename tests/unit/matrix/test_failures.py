"""What the homeserver refuses, as errors of ours."""

from types import SimpleNamespace

import nio
import pytest

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
from bot.matrix.failures import call


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
        (401, "M_MISSING_TOKEN", LoggedOut),
        (403, "ORG_MATRIX_EXPIRED_ACCOUNT", AccountExpired),
        (403, "M_FORBIDDEN", NotFound),
        (404, "M_NOT_FOUND", NotFound),
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
