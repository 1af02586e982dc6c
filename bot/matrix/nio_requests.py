"""Requests to the homeserver: time limits, parsing of responses, downloads."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import nio
from aiohttp import ClientResponse
from typing_extensions import override

from bot.errors import Forbidden, HomeserverUnreachable, TooLarge
from bot.matrix import response_repair
from bot.matrix.error_mapping import call, mapped_errors
from bot.matrix.json_fields import Json
from bot.runtime.uncancellable import run_uncancelled

# bytes; a larger response takes 10 ms or more to parse, so it is parsed in a thread
_LARGE_RESPONSE = 64 * 1024
_LONGEST_REQUEST_SECONDS = 600  # the limit where nio would wait for ever


class RequestClient(nio.AsyncClient):
    """nio's client with a time limit on each request, and repaired responses.

    Attributes:
        limited: called for each response with status 429.
    """

    limited: Callable[[], None] | None = None

    @override
    async def send(
        self,
        method: str,
        path: str,
        data: Any = None,
        headers: dict[str, str] | None = None,
        trace_context: Any = None,
        timeout: float | None = None,
    ) -> ClientResponse:
        """Make one request. It has a time limit even if nio sets none (0)."""
        limit = _LONGEST_REQUEST_SECONDS if timeout == 0 else timeout
        response: ClientResponse = await super().send(
            method, path, data, headers, trace_context, limit
        )
        if response.status == HTTPStatus.TOO_MANY_REQUESTS and self.limited is not None:
            self.limited()
        return response

    @override
    async def create_matrix_response(
        self,
        response_class: Any,
        transport_response: ClientResponse,
        data: tuple[Any, ...] | None = None,
        save_to: Any = None,
    ) -> Any:
        """Parse a response. A large one is parsed in a thread, and does not block the loop."""
        if issubclass(response_class, nio.FileResponse | nio.RoomGetStateEventResponse):
            return await super().create_matrix_response(
                response_class, transport_response, data, save_to
            )
        raw = await transport_response.read()
        if len(raw) > _LARGE_RESPONSE:
            response = await asyncio.to_thread(
                response_repair.read, response_class, raw, data or ()
            )
        else:
            response = response_repair.read(response_class, raw, data or ())
        refused = transport_response.status >= HTTPStatus.BAD_REQUEST
        is_error = isinstance(response, nio.ErrorResponse) or getattr(response, "challenge", False)
        if refused and not is_error:  # a proxy's response, with other JSON
            response = nio.ErrorResponse("an error without a code")
        response.transport_response = transport_response  # type: ignore[assignment]  # nio's hint is wrong
        return response

    async def ask(
        self,
        method: str,
        path: Iterable[str],
        body: Mapping[str, Any] | None = None,
        **query: str,
    ) -> Json:
        """Make a request that nio has no method for, and return the JSON object of its response.

        Args:
            method: the HTTP method.
            path: the path segments after `/_matrix/client/v3`, not quoted.
            body: the JSON body; None for none.
            query: the URL's parameters.

        Raises:
            MatrixError: the homeserver refused, or did not answer.
        """
        request = self.send_json(response_repair.ObjectResponse, method, path, body, **query)
        return (await call(response_repair.ObjectResponse, run_uncancelled(request))).source

    def send_json(
        self,
        expected: type[nio.Response],
        method: str,
        path: Iterable[str],
        body: Mapping[str, Any] | None = None,
        **query: str,
    ) -> Coroutine[Any, Any, object]:
        """Make such a request, and return whatever response comes."""
        url = "/".join(["/_matrix/client/v3", *(quote(step, safe="") for step in path)])
        data = None if body is None else nio.Api.to_json(dict(body))
        return self._send(expected, method, f"{url}?{urlencode(query)}" if query else url, data)

    async def download_media(self, url: str, limit: int) -> bytes:
        """Download a file from the media repository (spec: authenticated media).

        Args:
            url: an `mxc://` URI.
            limit: the largest accepted size in bytes, counted during the download.

        Raises:
            Forbidden: there is no such file, or it is too large.
            HomeserverUnreachable: the homeserver did not answer.
        """
        server, _, media_id = url.removeprefix("mxc://").partition("/")
        steps = ["_matrix", "client", "v1", "media", "download", server, media_id]
        path = "/" + "/".join(quote(step, safe="") for step in steps)
        headers = {"Authorization": f"Bearer {self.access_token}"}
        with mapped_errors():
            response = await self.send("GET", path, headers=headers)
            async with response:
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise HomeserverUnreachable(f"HTTP {response.status} for a file")
                if response.status != HTTPStatus.OK:
                    raise Forbidden(f"HTTP {response.status} for a file")
                data = bytearray()
                async for piece in response.content.iter_chunked(_LARGE_RESPONSE):
                    data += piece
                    if len(data) > limit:
                        raise TooLarge(f"a file of more than {limit} bytes")
        return bytes(data)
