"""The dashboard and the public statistics over HTTP: what is asked for, and by whom."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Final

import structlog
from aiohttp import web

from bot.charts import Theme, svg
from bot.config import DashboardSettings
from bot.core.statistics import PARTS, Figures, Only, Step, by
from bot.dashboard.access import COOKIE, STAYS, Access, is_from_elsewhere, is_secure
from bot.dashboard.pages import CHART_POLICY, FOLDER, HEADERS, Pages, by_first_day, rows
from bot.errors import StoreError
from bot.listening import listening
from bot.logs import log_bug
from bot.ports import Clock, Statistics
from bot.reports import (
    CHARTS,
    PERIODS,
    PublicReport,
    Report,
    public_report,
    report,
)

_FRESH_SECONDS: Final = 30.0  # for which a report is shown again: a page and its charts are one
_PATIENCE: Final = 20.0  # seconds for the ledger, which may be away
_REPORTS: Final = 64  # that are kept
_REMARKS: Final = 20  # that are shown
_SURVEYS: Final = 20
_LONGEST_NAME: Final = 255  # of a domain or a model, in characters
_PERIOD: Final = 30  # days, where none is chosen
_LARGEST_FORM: Final = 4096  # bytes
_FORM: Final = "application/x-www-form-urlencoded"
_THEMES: Final[dict[str, Theme]] = {"clair": "light", "sombre": "dark"}

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serve(
    statistics: Statistics, settings: DashboardSettings, clock: Clock
) -> AsyncIterator[None]:
    """Answer while the block runs; without a port, nobody.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    if settings.port is None:
        yield
        return
    made = application(statistics, settings, clock)
    async with listening(made, "dashboard", settings.host, settings.port):
        yield


def application(
    statistics: Statistics, settings: DashboardSettings, clock: Clock
) -> web.Application:
    """Return what answers, wherever it listens."""
    dashboard = Dashboard(statistics, settings, clock)
    app = web.Application(middlewares=[dashboard.guard], client_max_size=_LARGEST_FORM)
    app.add_routes(
        [
            web.get("/", dashboard.show),
            web.get("/graphiques/{name}-{theme}.svg", dashboard.chart),
            web.get("/connexion", dashboard.ask),
            web.post("/connexion", dashboard.log_in),
            web.post("/deconnexion", dashboard.log_out),
            web.get("/style.css", _file("style.css", "text/css")),
            web.get("/icon.svg", _file("icon.svg", "image/svg+xml")),
        ]
    )
    if settings.public:
        app.add_routes(
            [
                web.get("/statistiques", dashboard.show_public),
                web.get("/publics/{name}-{theme}.svg", dashboard.public_chart),
            ]
        )
    return app


class Dashboard:
    """The pages by their paths; links are relative, as a proxy may put all below a path."""

    def __init__(self, statistics: Statistics, settings: DashboardSettings, clock: Clock) -> None:
        """Take where figures come from, and who may see them."""
        self._statistics = statistics
        self._public = settings.public
        self._clock = clock
        self._access = Access(settings, clock)
        self._pages = Pages()
        self._reports: dict[object, tuple[float, Report | PublicReport]] = {}

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let nothing out but pages, with headers that keep browsers from all they need not do."""
        try:
            async with asyncio.timeout(_PATIENCE):
                response = await handler(request)
        except web.HTTPException as error:
            response = self._failed(error)
        except (StoreError, TimeoutError):
            response = self._failed(web.HTTPServiceUnavailable())
        except Exception as error:  # noqa: BLE001  # whoever looks gets a page, the log the rest
            log_bug(error)
            response = self._failed(web.HTTPInternalServerError())
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _failed(self, error: web.HTTPException) -> web.Response:
        page = self._page("error", status=error.status, wrong=error.text)
        if "Allow" in error.headers:
            page.headers["Allow"] = error.headers["Allow"]
        return page

    def _page(self, name: str, *, status: int = 200, **values: object) -> web.Response:
        shared = {"public": self._public, "asks": self._access.asks, "inside": False}
        return self._pages.page(name, status, shared | values)

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Return the dashboard, or send to the login."""
        if not self._access.allows(request):
            return self._refuse()
        days, only = _chosen(request)
        about = await self._report(days, only)
        remarks = await self._statistics.remarks(only, _REMARKS)
        surveys = await self._statistics.surveys(_SURVEYS)
        return self._page(
            "dashboard",
            report=about,
            whole=about.whole,
            days=days,
            only=only,
            day_rows=by_first_day(about.series),
            tables={part: rows(part, by(part, about.groups)) for part in PARTS},
            remarks=remarks,
            surveys=surveys,
            query=request.rel_url.raw_query_string,
            inside=True,
        )

    def _refuse(self) -> web.Response:
        if self._access.asks:
            return _see_other("connexion")
        return self._page("error", status=403, wrong=None)

    async def chart(self, request: web.Request) -> web.StreamResponse:
        """Return one of the dashboard's charts."""
        if not self._access.allows(request):
            raise web.HTTPForbidden
        about = await self._report(*_chosen(request))
        return await _drawn(request, about.series, about.step)

    async def show_public(self, _: web.Request) -> web.StreamResponse:
        """Return what everybody may see."""
        about = await self._public_report()
        page = self._page(
            "public",
            report=about,
            week_rows=by_first_day(about.weeks),
            tables={part: rows(part, groups) for part, groups in about.groups.items()},
        )
        page.headers["Cache-Control"] = "public, max-age=300"
        return page

    async def public_chart(self, request: web.Request) -> web.StreamResponse:
        """Return one of the charts that everybody may see."""
        return await _drawn(request, (await self._public_report()).weeks, "week")

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """Return the login's form."""
        if not self._access.asks:
            raise web.HTTPNotFound
        if self._access.allows(request):
            return _see_other("./")
        return self._page("login", wrong=False, locked=False)

    async def log_in(self, request: web.Request) -> web.StreamResponse:
        """Begin a session where the token is right."""
        if not self._access.asks:
            raise web.HTTPNotFound
        if is_from_elsewhere(request):
            raise web.HTTPForbidden
        if self._access.is_locked(request):
            return self._page("login", status=429, wrong=False, locked=True)
        session = self._access.log_in(request, await _token(request))
        if session is None:
            log.warning("dashboard login refused")
            return self._page("login", status=401, wrong=True, locked=False)
        response = _see_other("./")
        response.set_cookie(
            COOKIE,
            session,
            max_age=int(STAYS),
            httponly=True,
            samesite="Strict",
            secure=is_secure(request),
        )
        return response

    async def log_out(self, request: web.Request) -> web.StreamResponse:
        """End the session."""
        if is_from_elsewhere(request):
            raise web.HTTPForbidden
        self._access.log_out(request)
        response = _see_other("connexion")
        response.del_cookie(COOKIE, httponly=True, samesite="Strict", secure=is_secure(request))
        return response

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.now(), UTC).date()

    async def _report(self, days: int, only: Only) -> Report:
        today = self._today()
        found = self._kept((today, days, only))
        if not isinstance(found, Report):
            found = await report(self._statistics, today, days, only)
            self._keep((today, days, only), found)
        return found

    async def _public_report(self) -> PublicReport:
        today = self._today()
        found = self._kept(today)
        if not isinstance(found, PublicReport):
            found = await public_report(self._statistics, today)
            self._keep(today, found)
        return found

    def _kept(self, key: object) -> Report | PublicReport | None:
        until, found = self._reports.get(key, (0.0, None))
        return found if self._clock.monotonic() < until else None

    def _keep(self, key: object, found: Report | PublicReport) -> None:
        self._reports.pop(key, None)
        while len(self._reports) >= _REPORTS:
            del self._reports[next(iter(self._reports))]
        self._reports[key] = self._clock.monotonic() + _FRESH_SECONDS, found


def _chosen(request: web.Request) -> tuple[int, Only]:
    """Return the period in days, and what figures are narrowed to.

    Raises:
        web.HTTPBadRequest: what was given is none of those.
    """
    days = request.query.get("jours", str(_PERIOD))
    if days not in map(str, PERIODS):
        raise web.HTTPBadRequest(text="jours")
    names = [request.query.get(name) for name in ("modele", "domaine")]
    if any(name and (len(name) > _LONGEST_NAME or not name.isprintable()) for name in names):
        raise web.HTTPBadRequest(text="nom")
    model, domain = (name or None for name in names)
    return int(days), Only(model, domain)


def _file(name: str, kind: str) -> Handler:
    """Return what answers with a file of ours."""
    body = (FOLDER / name).read_bytes()

    async def answer(_: web.Request) -> web.StreamResponse:
        kept = {"Cache-Control": "max-age=300"}
        return web.Response(body=body, content_type=kind, headers=kept)

    return answer


def _see_other(where: str) -> web.Response:
    return web.Response(status=303, headers={"Location": where, "Cache-Control": "no-store"})


async def _token(request: web.Request) -> str:
    """Return what was typed.

    Raises:
        web.HTTPException: it is no form of ours.
    """
    if request.content_type != _FORM:
        raise web.HTTPUnsupportedMediaType
    try:
        return str((await request.post()).get("jeton", ""))
    except ValueError as error:  # bytes that are no UTF-8
        raise web.HTTPBadRequest from error


async def _drawn(request: web.Request, series: Mapping[date, Figures], step: Step) -> web.Response:
    make = CHARTS.get(request.match_info["name"])
    theme = _THEMES.get(request.match_info["theme"])
    if make is None or theme is None:
        raise web.HTTPNotFound
    drawn = await asyncio.to_thread(svg, make(series, step), theme)
    headers = {"Content-Security-Policy": CHART_POLICY, "Cache-Control": "no-store"}
    return web.Response(text=drawn, content_type="image/svg+xml", headers=headers)
