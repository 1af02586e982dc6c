"""The dashboard and the public statistics over HTTP: what is asked for, and by whom."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

import structlog
from aiohttp import web

from bot.config.sections import DashboardSettings
from bot.core.statistics import PARTS, Figures, Only, Step, by
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

_FRESH_SECONDS: Final = 30.0  # for which a report is shown again: a page and its charts are one
_PATIENCE: Final = 20.0  # seconds for the ledger, which may be away
_REPORTS: Final = 64  # that are kept
_PUBLIC: Final = 16  # pages and charts of today; there are thirteen
_REMARKS: Final = 20  # that are shown
_CAMPAIGNS: Final = 20
_LONGEST_NAME: Final = 255  # of a domain or a model, in characters
_PERIOD: Final = 30  # days, where none is chosen
_LARGEST_FORM: Final = 4096  # bytes
_FORM: Final = "application/x-www-form-urlencoded"
_FORM_SECONDS: Final = 10.0  # in which it is there
_CHARSETS: Final = {None, "utf-8", "utf8"}
_READ: Final = {"GET", "HEAD"}
_LOOKS: Final[dict[str, tuple[Theme, bool]]] = {  # and whether it is for a narrow screen
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
    """The pages by their paths; links are relative, as a proxy may put all below a path."""

    def __init__(self, statistics: Statistics, settings: DashboardSettings, clock: Clock) -> None:
        """Take where figures come from, and who may see them."""
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
        """Let nothing out but pages, with headers that keep browsers from all they need not do."""
        try:
            if request.method not in _READ and is_from_elsewhere(request):
                raise web.HTTPForbidden  # noqa: TRY301  # it gets a page like every other one
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
        return self._pages.page(name, status, self._shared | values)

    @property
    def _shared(self) -> dict[str, object]:
        """What each page is told."""
        return {"public": self._public, "asks": self._access.asks, "inside": False}

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Return the dashboard, or send to the login."""
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
        """Return what everybody may see."""

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
        """Return one of the charts that everybody may see."""

        async def make() -> File:
            drawn = await drawing.draw((await self._public_report(today)).weeks, "week")
            return File(drawn.encode(), "image/svg+xml", CHART_POLICY)

        today, drawing = self._today(), _drawing(request)
        return (await self._files.get((today, drawing), make)).answer(request)

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
        token = await _token(request)  # first: many may be on their way when the door is locked
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

    async def _report(self, days: int, only: Only) -> Report:
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
    """A chart that is asked for, and how it is to look."""

    name: str
    theme: Theme
    narrow: bool

    async def draw(self, series: Mapping[date, Figures], step: Step) -> str:
        """Return it as an SVG document; a thread makes it."""
        chart = CHARTS[self.name](series, step, TEXTS)
        return await asyncio.to_thread(svg, chart, self.theme, narrow=self.narrow)


def _drawing(request: web.Request) -> _Drawing:
    """Return which chart is asked for.

    Raises:
        web.HTTPNotFound: there is none of that name.
    """
    name, look = request.match_info["name"], _LOOKS.get(request.match_info["look"])
    if name not in CHARTS or look is None:
        raise web.HTTPNotFound
    return _Drawing(name, *look)


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
    file = File((FOLDER / name).read_bytes(), kind)

    async def answer(request: web.Request) -> web.StreamResponse:
        return file.answer(request)

    return answer


def _see_other(where: str) -> web.Response:
    return web.Response(status=303, headers={"Location": where, "Cache-Control": "no-store"})


async def _token(request: web.Request) -> str:
    """Return what was typed.

    Raises:
        web.HTTPException: it is no form of ours, or not there in time.
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
        # Bytes that are no UTF-8; a body that is cut, or not what its length or coding says.
        raise web.HTTPBadRequest from error
