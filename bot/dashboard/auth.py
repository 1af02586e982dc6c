"""Who may see the dashboard: with the token, by a reverse proxy's word, or from this machine."""

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
STAYS: Final = 12 * 3600.0  # seconds for which who has logged in is known

_TRIES: Final = 10  # wrong tokens from one address
_TRIES_WITHIN: Final = 60.0  # seconds
_MOST: Final = 1000  # sessions, and addresses whose tries are counted
_ONE_SUBSCRIBER: Final = 64  # bits of an IPv6 address that its holder does not choose (RFC 6177)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Access:
    """Decides by address, header and cookie; sessions are random, and end with the process."""

    def __init__(self, settings: DashboardSettings, clock: Clock) -> None:
        """Take the token, and which proxies are believed."""
        token = settings.token.get_secret_value() if settings.token else None
        self._token = None if token is None else _digest(token)
        self._header = settings.proxy_header
        self._proxies = [ip_network(text) for text in settings.proxies]
        self._clock = clock
        self._sessions = BoundedDict[str, float](_MOST)  # until when each stands
        self._wrong = BoundedDict[str, list[float]](_MOST)  # when each address tried

    @property
    def asks(self) -> bool:
        """Whether a token opens it."""
        return self._token is not None

    def allows(self, request: web.Request) -> bool:
        """Tell whether who asks may see the dashboard."""
        if self._token is None and self._header is None:
            # A page elsewhere can make a browser here ask, under a name that it lets point here.
            return is_loopback(_host(request))
        return self._vouched(request) or self._has_session(request)

    def _vouched(self, request: web.Request) -> bool:
        """Tell whether a proxy that is believed says who it is."""
        if self._header is None or not request.headers.get(self._header, "").strip():
            return False
        peer = _peer(request)
        return peer is not None and any(peer in network for network in self._proxies)

    def _has_session(self, request: web.Request) -> bool:
        until = self._sessions.get(request.cookies.get(COOKIE, ""))
        return until is not None and self._clock.monotonic() < until

    def is_locked(self, request: web.Request) -> bool:
        """Tell whether too many wrong tokens came from that address a moment ago."""
        return len(self._tries(_counted_as(request))) >= _TRIES

    def _tries(self, address: str) -> list[float]:
        """Return when that address gave wrong tokens a moment ago."""
        since = self._clock.monotonic() - _TRIES_WITHIN
        return [at for at in self._wrong.get(address, ()) if at > since]

    def log_in(self, request: web.Request, token: str) -> str | None:
        """Return a new session where the token is right; None where it is wrong.

        The session that the browser had before ends.
        """
        now = self._clock.monotonic()
        if self._token is None or not hmac.compare_digest(_digest(token), self._token):
            self._count(_counted_as(request), now)
            return None
        self.log_out(request)
        for one in [one for one, until in self._sessions.items() if now >= until]:
            del self._sessions[one]
        session = secrets.token_urlsafe(32)
        self._sessions[session] = now + STAYS
        return session

    def _count(self, address: str, now: float) -> None:
        self._wrong[address] = [*self._tries(address), now]

    def log_out(self, request: web.Request) -> None:
        """Forget the session."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)


def is_secure(request: web.Request) -> bool:
    """Tell whether the browser speaks HTTPS; who lies about that hurts nobody else."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "") == "https"


def is_from_elsewhere(request: web.Request) -> bool:
    """Tell whether another site has made the browser send this.

    Browsers say so themselves (Fetch Metadata, W3C), but not to an address without TLS: there
    `Origin` tells. Who sends neither is no browser, or one that is older than both.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"none", "same-origin"}
    origin = request.headers.get("Origin")
    return origin is not None and not _is_ours(origin, request.headers.get("Host", ""))


def _is_ours(origin: str, host: str) -> bool:
    """Tell whether an origin is the one that was asked; TLS may end at a proxy."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    usual = _DEFAULT_PORTS.get(parts.scheme)
    return usual is not None and (
        parts.netloc.lower().removesuffix(usual) == host.lower().removesuffix(usual) != ""
    )


def _peer(request: web.Request) -> IPv4Address | IPv6Address | None:
    """Return who has opened the connection, None where no address tells."""
    try:
        peer = ip_address(request.remote or "")
    except ValueError:
        return None
    return getattr(peer, "ipv4_mapped", None) or peer


def _counted_as(request: web.Request) -> str:
    """Return whose tries are counted together: an IPv6 subscriber has a whole network."""
    peer = _peer(request)
    if isinstance(peer, IPv6Address):
        return str(IPv6Network((int(peer), _ONE_SUBSCRIBER), strict=False))
    return str(peer)


def _host(request: web.Request) -> str:
    """Return the host that is asked, without its port."""
    host = request.host
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _digest(token: str) -> bytes:
    """Return as many bytes whatever the token's length."""
    return hashlib.sha256(token.encode()).digest()
