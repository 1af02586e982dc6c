"""Responses that are the same for everybody, which browsers and proxies cache for a minute."""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

FRESH_SECONDS: Final = 60

_TAG_LETTERS: Final = 32


@dataclass(frozen=True, slots=True)
class File:
    """A cacheable response body.

    Attributes:
        body: the bytes to send.
        kind: its media type, without the character set, which is UTF-8.
        policy: its Content-Security-Policy; None for the policy of pages.
        tag: its entity tag, a hash of the body (RFC 9110, section 8.8.3).
    """

    body: bytes
    kind: str
    policy: str | None = None
    tag: str = field(init=False)

    def __post_init__(self) -> None:
        """Set the tag."""
        tag = hashlib.sha256(self.body).hexdigest()[:_TAG_LETTERS]
        object.__setattr__(self, "tag", tag)

    def answer(self, request: web.Request) -> web.Response:
        """Return a response with the body, or 304 if the client has it already."""
        headers = {"Cache-Control": f"public, max-age={FRESH_SECONDS}", "ETag": f'"{self.tag}"'}
        if self.policy is not None:
            headers["Content-Security-Policy"] = self.policy
        if any(one.value in {"*", self.tag} for one in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = f"{self.kind}; charset=utf-8"
        return web.Response(body=self.body, headers=headers)
