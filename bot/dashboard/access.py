"""Who may see the dashboard: with the token, by a reverse proxy's word, or from this machine."""

import hashlib
import hmac
import secrets
from collections import defaultdict
from ipaddress import ip_address, ip_network
from typing import Final

from aiohttp import web

from bot.config import DashboardSettings, is_loopback
from bot.ports import Clock

COOKIE: Final = "tableau_de_bord"
STAYS: Final = 12 * 3600.0  # seconds for which who has logged in is known

_TRIES: Final = 10  # wrong tokens from one address
_TRIES_WITHIN: Final = 60.0  # seconds
_MOST: Final = 1000  # sessions, and addresses whose tries are counted


class Access:
    """Decides by address, header and cookie; sessions are random, and end with the process."""

    def __init__(self, settings: DashboardSettings, clock: Clock) -> None:
        """Take the token, and which proxies are believed."""
        token = settings.token.get_secret_value() if settings.token else None
        self._token = None if token is None else _digest(token)
        self._header = settings.proxy_header
        self._proxies = [ip_network(text) for text in settings.proxies]
        self._clock = clock
        self._sessions: dict[str, float] = {}  # until when each stands
        self._wrong: defaultdict[str, list[float]] = defaultdict(list)

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
        try:
            peer = ip_address(request.remote or "")
        except ValueError:
            return False
        mapped = getattr(peer, "ipv4_mapped", None) or peer
        return any(mapped in network for network in self._proxies)

    def _has_session(self, request: web.Request) -> bool:
        until = self._sessions.get(request.cookies.get(COOKIE, ""))
        return until is not None and self._clock.monotonic() < until

    def is_locked(self, request: web.Request) -> bool:
        """Tell whether too many wrong tokens came from that address a moment ago."""
        since = self._clock.monotonic() - _TRIES_WITHIN
        address = request.remote or ""
        tries = [at for at in self._wrong.pop(address, []) if at > since]
        if tries:
            self._wrong[address] = tries
        return len(tries) >= _TRIES

    def log_in(self, request: web.Request, token: str) -> str | None:
        """Return a new session where the token is right; None where it is wrong."""
        now = self._clock.monotonic()
        if self._token is None or not hmac.compare_digest(_digest(token), self._token):
            if len(self._wrong) < _MOST:
                self._wrong[request.remote or ""].append(now)
            return None
        self._sessions = {one: until for one, until in self._sessions.items() if now < until}
        while len(self._sessions) >= _MOST:
            del self._sessions[next(iter(self._sessions))]
        session = secrets.token_urlsafe(32)
        self._sessions[session] = now + STAYS
        return session

    def log_out(self, request: web.Request) -> None:
        """Forget the session."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)


def is_secure(request: web.Request) -> bool:
    """Tell whether the browser speaks HTTPS; who lies about that hurts nobody else."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "") == "https"


def is_from_elsewhere(request: web.Request) -> bool:
    """Tell whether another site has made the browser send this (Fetch Metadata, W3C)."""
    return request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}


def _host(request: web.Request) -> str:
    """Return the host that is asked, without its port."""
    host = request.host
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _digest(token: str) -> bytes:
    """Return as many bytes whatever the token's length."""
    return hashlib.sha256(token.encode()).digest()
