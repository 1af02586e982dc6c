"""The HTTP server of the dashboard and of the public statistics."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

import structlog
from aiohttp import web

from bot.config.sections import DashboardSettings
from bot.core.statistics import PARTS, FigureFilter, Figures, Step, by
from bot.dashboard.auth import COOKIE, STAYS, Access, is_from_elsewhere, is_secure
from bot.dashboard.files import FRESH_SECONDS, File
from bot.dashboard.kept import Kept
from bot.dashboard.pages import CHART_POLICY, FOLDER, HEADERS, TEXTS, Pages, by_first_day, rows
from bot.errors import StoreError
from bot.monitoring.logs import log_bug
from bot.ports.clock import Clock
from bot.ports.statistics import Statistics
from bot.reporting.charts import Theme, svg
from bot.reporting.reports import (
    CHARTS,
    PERIODS,
    PublicReport,
    Report,
    public_report,
    report,
)
from bot.runtime.http_server import listening, web_application

_FRESH_SECONDS: Final = 30.0  # validity of a report, so that a page and its charts share one
_PATIENCE: Final = 20.0  # seconds for a request, as the ledger may be unavailable
_REPORTS: Final = 64  # cached at the same time
_PUBLIC: Final = 16  # cached public pages and charts; a day has thirteen
_REMARKS: Final = 20  # shown on a page
_CAMPAIGNS: Final = 20  # shown on a page
_LONGEST_NAME: Final = 255  # characters of a domain's or a model's name
_PERIOD: Final = 30  # days, if none is chosen
_LARGEST_FORM: Final = 4096  # bytes
_FORM: Final = "application/x-www-form-urlencoded"
_FORM_SECONDS: Final = 10.0  # time for a form to arrive
_CHARSETS: Final = {None, "utf-8", "utf8"}
_READ: Final = {"GET", "HEAD"}
_LOOKS: Final[dict[str, tuple[Theme, bool]]] = {  # theme, and whether for a narrow screen
    "clair": ("light", False),
    "sombre": ("dark", False),
    "clair_etroit": ("light", True),
    "sombre_etroit": ("dark", True),
}

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serve(
    statistics: Statistics, settings: DashboardSettings, clock: Clock
) -> AsyncIterator[None]:
    """Serve the dashboard while the block runs, if the settings have a port for it.

    Raises:
        ConfigError: the server cannot listen on the address.
    """
    if settings.port is None:
        yield
        return
    app = application(statistics, settings, clock)
    async with listening(app, "dashboard", settings.host, settings.port):
        yield


def application(
    statistics: Statistics, settings: DashboardSettings, clock: Clock
) -> web.Application:
    """Return the web application of the dashboard."""
    dashboard = Dashboard(statistics, settings, clock)
    app = web_application(dashboard.guard, largest_body=_LARGEST_FORM)
    app.add_routes(
        [
            web.get("/", dashboard.show),
            web.get("/graphiques/{name}-{look}.svg", dashboard.chart),
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
                web.get("/publics/{name}-{look}.svg", dashboard.public_chart),
            ]
        )
    return app


class Dashboard:
    """The request handlers; links are relative, as a proxy may serve all of it below a path."""

    def __init__(self, statistics: Statistics, settings: DashboardSettings, clock: Clock) -> None:
        """Use the source of figures, and the settings for access."""
        self._statistics = statistics
        self._public = settings.public
        self._clock = clock
        self._access = Access(settings, clock)
        self._pages = Pages()
        self._reports: Kept[Report] = Kept(clock, _FRESH_SECONDS, _REPORTS)
        self._public_reports: Kept[PublicReport] = Kept(clock, FRESH_SECONDS, 1)
        self._files: Kept[File] = Kept(clock, FRESH_SECONDS, _PUBLIC)

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn every failure into a page, and add the security headers to every response."""
        try:
            if request.method not in _READ and is_from_elsewhere(request):
                raise web.HTTPForbidden  # noqa: TRY301  # it gets a page like every other one
            async with asyncio.timeout(_PATIENCE):
                response = await handler(request)
        except web.HTTPException as error:
            response = self._failed(error)
        except (StoreError, TimeoutError):
            response = self._failed(web.HTTPServiceUnavailable())
        except Exception as error:  # noqa: BLE001  # people get a page, the log gets the details
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
        return self._pages.page(name, status, self._shared | values)

    @property
    def _shared(self) -> dict[str, object]:
        """The values that every template gets."""
        return {"public": self._public, "asks": self._access.asks, "inside": False}

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Return the dashboard, or redirect to the login."""
        if not self._access.allows(request):
            return self._refuse()
        days, only = _chosen(request)
        about = await self._report(days, only)
        remarks = await self._statistics.remarks(only, _REMARKS)
        campaigns = await self._statistics.campaigns(_CAMPAIGNS)
        return self._page(
            "dashboard",
            report=about,
            whole=about.whole,
            days=days,
            only=only,
            day_rows=by_first_day(about.series),
            tables={part: rows(part, by(part, about.groups)) for part in PARTS},
            remarks=remarks,
            campaigns=campaigns,
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
        drawing = _drawing(request)
        about = await self._report(*_chosen(request))
        drawn = await drawing.draw(about.series, about.step)
        headers = {"Content-Security-Policy": CHART_POLICY, "Cache-Control": "no-store"}
        return web.Response(text=drawn, content_type="image/svg+xml", headers=headers)

    async def show_public(self, request: web.Request) -> web.StreamResponse:
        """Return the page of public statistics."""

        async def make() -> File:
            about = await self._public_report(today)
            values: dict[str, object] = {
                "report": about,
                "week_rows": by_first_day(about.weeks),
                "tables": {part: rows(part, groups) for part, groups in about.groups.items()},
            }
            text = self._pages.text("public", 200, self._shared | values)
            return File(text.encode(), "text/html")

        today = self._today()
        return (await self._files.get(today, make)).answer(request)

    async def public_chart(self, request: web.Request) -> web.StreamResponse:
        """Return one of the public charts."""

        async def make() -> File:
            drawn = await drawing.draw((await self._public_report(today)).weeks, "week")
            return File(drawn.encode(), "image/svg+xml", CHART_POLICY)

        today, drawing = self._today(), _drawing(request)
        return (await self._files.get((today, drawing), make)).answer(request)

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """Return the login form."""
        if not self._access.asks:
            raise web.HTTPNotFound
        if self._access.allows(request):
            return _see_other("./")
        return self._page("login", wrong=False, locked=False)

    async def log_in(self, request: web.Request) -> web.StreamResponse:
        """Start a session if the token is right."""
        if not self._access.asks:
            raise web.HTTPNotFound
        # Before the check of the lock: requests that arrive slowly must not pass it all at once.
        token = await _token(request)
        if self._access.is_locked(request):
            return self._page("login", status=429, wrong=False, locked=True)
        session = self._access.log_in(request, token)
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
        self._access.log_out(request)
        response = _see_other("connexion")
        response.del_cookie(COOKIE, httponly=True, samesite="Strict", secure=is_secure(request))
        return response

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.now(), UTC).date()

    async def _report(self, days: int, only: FigureFilter) -> Report:
        today = self._today()

        async def make() -> Report:
            return await report(self._statistics, today, days, only)

        return await self._reports.get((today, days, only), make)

    async def _public_report(self, today: date) -> PublicReport:
        async def make() -> PublicReport:
            return await public_report(self._statistics, today)

        return await self._public_reports.get(today, make)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """A requested chart, with its look."""

    name: str
    theme: Theme
    narrow: bool

    async def draw(self, series: Mapping[date, Figures], step: Step) -> str:
        """Return the chart as an SVG document, drawn in a thread."""
        chart = CHARTS[self.name](series, step, TEXTS)
        return await asyncio.to_thread(svg, chart, self.theme, narrow=self.narrow)


def _drawing(request: web.Request) -> _Drawing:
    """Return the requested chart.

    Raises:
        web.HTTPNotFound: there is no chart of that name or look.
    """
    name, look = request.match_info["name"], _LOOKS.get(request.match_info["look"])
    if name not in CHARTS or look is None:
        raise web.HTTPNotFound
    return _Drawing(name, *look)


def _chosen(request: web.Request) -> tuple[int, FigureFilter]:
    """Return the chosen period, in days, and the chosen filter.

    Raises:
        web.HTTPBadRequest: a parameter is not valid.
    """
    days = request.query.get("jours", str(_PERIOD))
    if days not in map(str, PERIODS):
        raise web.HTTPBadRequest(text="jours")
    names = [request.query.get(name) for name in ("modele", "domaine")]
    if any(name and (len(name) > _LONGEST_NAME or not name.isprintable()) for name in names):
        raise web.HTTPBadRequest(text="nom")
    model, domain = (name or None for name in names)
    return int(days), FigureFilter(model, domain)


def _file(name: str, kind: str) -> Handler:
    """Return a handler that answers with one of the package's files."""
    file = File((FOLDER / name).read_bytes(), kind)

    async def answer(request: web.Request) -> web.StreamResponse:
        return file.answer(request)

    return answer


def _see_other(where: str) -> web.Response:
    return web.Response(status=303, headers={"Location": where, "Cache-Control": "no-store"})


async def _token(request: web.Request) -> str:
    """Return the token of a submitted login form.

    Raises:
        web.HTTPException: the body is no valid form, or did not arrive in time.
    """
    charset = request.charset
    if request.content_type != _FORM or (charset and charset.lower()) not in _CHARSETS:
        raise web.HTTPUnsupportedMediaType
    try:
        async with asyncio.timeout(_FORM_SECONDS):
            return str((await request.post()).get("jeton", ""))
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    except (ValueError, ConnectionError, web.RequestPayloadError) as error:
        # Bytes that are no UTF-8, or a body that is cut or contradicts its length or coding.
        raise web.HTTPBadRequest from error
