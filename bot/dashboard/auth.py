"""Access to the dashboard: by the token, by a reverse proxy's login, or from this machine."""

import hashlib
import hmac
import secrets
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from bot.config.sections import DashboardSettings, is_loopback
from bot.core.bounded import BoundedDict
from bot.ports.clock import Clock

COOKIE: Final = "tableau_de_bord"
STAYS: Final = 12 * 3600.0  # duration of a session, in seconds

_TRIES: Final = 10  # wrong tokens from one address that lock it
_TRIES_WITHIN: Final = 60.0  # seconds in which they are counted
_MOST: Final = 1000  # largest number of sessions, and of addresses whose tries are counted
_ONE_SUBSCRIBER: Final = 64  # bits of an IPv6 prefix that its subscriber cannot choose (RFC 6177)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Access:
    """Access by address, header or session cookie; sessions end with the process."""

    def __init__(self, settings: DashboardSettings, clock: Clock) -> None:
        """Use the token, the header and the proxies of the settings."""
        token = settings.token.get_secret_value() if settings.token else None
        self._token = None if token is None else _digest(token)
        self._header = settings.proxy_header
        self._proxies = [ip_network(text) for text in settings.proxies]
        self._clock = clock
        self._sessions = BoundedDict[str, float](_MOST)  # the end of each
        self._wrong = BoundedDict[str, list[float]](_MOST)  # times of wrong tokens, by address

    @property
    def asks(self) -> bool:
        """Whether people can log in with a token."""
        return self._token is not None

    def allows(self, request: web.Request) -> bool:
        """Return whether the request may see the dashboard."""
        if self._token is None and self._header is None:
            # The host is checked against DNS rebinding: a page of another site can let its own
            # host name point to this machine, and make a browser here send requests.
            return is_loopback(_host(request))
        return self._vouched(request) or self._has_session(request)

    def _vouched(self, request: web.Request) -> bool:
        """Return whether a trusted proxy names the person."""
        if self._header is None or not request.headers.get(self._header, "").strip():
            return False
        peer = _peer(request)
        return peer is not None and any(peer in network for network in self._proxies)

    def _has_session(self, request: web.Request) -> bool:
        end = self._sessions.get(request.cookies.get(COOKIE, ""))
        return end is not None and self._clock.monotonic() < end

    def is_locked(self, request: web.Request) -> bool:
        """Return whether the request's address has sent too many wrong tokens recently."""
        return len(self._tries(_subscriber(request))) >= _TRIES

    def _tries(self, address: str) -> list[float]:
        """Return the times of recent wrong tokens from an address."""
        since = self._clock.monotonic() - _TRIES_WITHIN
        return [at for at in self._wrong.get(address, ()) if at > since]

    def log_in(self, request: web.Request, token: str) -> str | None:
        """Return a new session if the token is right, else None.

        The browser's previous session ends.
        """
        now = self._clock.monotonic()
        if self._token is None or not hmac.compare_digest(_digest(token), self._token):
            self._count(_subscriber(request), now)
            return None
        self.log_out(request)
        for one in [one for one, end in self._sessions.items() if now >= end]:
            del self._sessions[one]
        session = secrets.token_urlsafe(32)
        self._sessions[session] = now + STAYS
        return session

    def _count(self, address: str, now: float) -> None:
        self._wrong[address] = [*self._tries(address), now]

    def log_out(self, request: web.Request) -> None:
        """End the browser's session."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)


def is_secure(request: web.Request) -> bool:
    """Return whether the browser uses HTTPS; a forged header harms only its sender."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "") == "https"


def is_from_elsewhere(request: web.Request) -> bool:
    """Return whether another site made the browser send the request.

    Browsers say so in `Sec-Fetch-Site` (Fetch Metadata, W3C), but not to an address without TLS,
    where `Origin` is compared. A client that sends neither is no browser, or a very old one.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"none", "same-origin"}
    origin = request.headers.get("Origin")
    return origin is not None and not _is_ours(origin, request.headers.get("Host", ""))


def _is_ours(origin: str, host: str) -> bool:
    """Return whether an origin is the requested host; the scheme may differ behind a proxy."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    usual = _DEFAULT_PORTS.get(parts.scheme)
    return usual is not None and (
        parts.netloc.lower().removesuffix(usual) == host.lower().removesuffix(usual) != ""
    )


def _peer(request: web.Request) -> IPv4Address | IPv6Address | None:
    """Return the address of the connection's other end; None if it has none."""
    try:
        peer = ip_address(request.remote or "")
    except ValueError:
        return None
    return getattr(peer, "ipv4_mapped", None) or peer


def _subscriber(request: web.Request) -> str:
    """Return the address under which tries are counted; in IPv6, the subscriber's network."""
    peer = _peer(request)
    if isinstance(peer, IPv6Address):
        return str(IPv6Network((int(peer), _ONE_SUBSCRIBER), strict=False))
    return str(peer)


def _host(request: web.Request) -> str:
    """Return the requested host, without its port."""
    host = request.host
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _digest(token: str) -> bytes:
    """Return a hash of the token, whose length does not depend on the token's."""
    return hashlib.sha256(token.encode()).digest()
