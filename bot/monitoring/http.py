"""The HTTP endpoints for probes and Prometheus: /livez, /readyz and /metrics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest

from bot.monitoring.health import Health
from bot.runtime.http_server import listening, web_application


@asynccontextmanager
async def serve(health: Health, host: str, port: int | None) -> AsyncIterator[None]:
    """Serve the endpoints while the block runs, if there is a port for them.

    Raises:
        ConfigError: the server cannot listen on the address.
    """
    if port is None:
        yield
        return
    async with listening(application(health), "health", host, port):
        yield


def application(health: Health) -> web.Application:
    """Return the web application of the endpoints."""
    # The time at which each figure was created would be one more figure, which nobody reads.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the client has no hint

    async def livez(_: web.Request) -> web.Response:
        return _checked(["stalled"] if health.stalled else [])

    async def readyz(_: web.Request) -> web.Response:
        return _checked(health.failing)

    async def metrics(_: web.Request) -> web.Response:
        text = generate_latest(health.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web_application()
    app.add_routes(
        [
            web.get("/livez", livez),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
        ]
    )
    return app


def _checked(failed: list[str]) -> web.Response:
    return web.json_response({"failed": failed}, status=503 if failed else 200)
