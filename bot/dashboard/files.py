"""What everybody is answered alike: made once, kept by browsers and proxies for a minute."""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

FRESH_SECONDS: Final = 60

_TAG_LETTERS: Final = 32


@dataclass(frozen=True, slots=True)
class File:
    """A body with its kind.

    Attributes:
        body: as it is sent.
        kind: its media type, without a character set: that is UTF-8.
        policy: its Content-Security-Policy, None for that of pages.
        tag: tells it from every other body (RFC 9110, section 8.8.3).
    """

    body: bytes
    kind: str
    policy: str | None = None
    tag: str = field(init=False)

    def __post_init__(self) -> None:
        """Make the tag."""
        tag = hashlib.sha256(self.body).hexdigest()[:_TAG_LETTERS]
        object.__setattr__(self, "tag", tag)

    def answer(self, request: web.Request) -> web.Response:
        """Return the body, or that what the client has is still right."""
        headers = {"Cache-Control": f"public, max-age={FRESH_SECONDS}", "ETag": f'"{self.tag}"'}
        if self.policy is not None:
            headers["Content-Security-Policy"] = self.policy
        if any(one.value in {"*", self.tag} for one in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = f"{self.kind}; charset=utf-8"
        return web.Response(body=self.body, headers=headers)
