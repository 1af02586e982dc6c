"""How people see the account: its display name and avatar (spec: profiles)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import nio
import structlog

from bot.core.display_names import ASSISTANT
from bot.errors import Absent, FatalError, Forbidden, MatrixError
from bot.matrix.error_mapping import call
from bot.matrix.json_fields import Json, mapping, text
from bot.matrix.nio_client import SafeClient
from bot.monitoring.logs import costing_nothing

_PATIENCE: Final = 30.0  # seconds of a start
_FILE: Final = "assistant-ia.png"
_UPLOADED: Final = "fr.gouv.assistant.avatar"  # account data: where the picture was uploaded to

log = structlog.get_logger()


async def check_profile(
    client: SafeClient, user_id: str, draw: Callable[[], Awaitable[bytes]] | None
) -> None:
    """Give the account an avatar where it has none; say in the log what its name lacks.

    People know the assistant by both. Neither is worth a start: what goes wrong is logged.

    Args:
        client: logged in.
        user_id: of the account.
        draw: returns the picture, a PNG; None to leave the avatar as it is.
    """
    with costing_nothing():
        try:
            async with asyncio.timeout(_PATIENCE):
                await _check(client, user_id, draw)
        except (MatrixError, OSError, TimeoutError) as error:  # some of them end the start
            if isinstance(error, FatalError):
                raise
            reason = str(error) or f"no answer within {_PATIENCE:.0f} s"
            if draw is None:
                log.warning("the account's profile is not known", reason=reason)
                return
            log.warning(
                "the account's profile is left as it is: give it an avatar by hand, or set"
                " matrix.avatar to keep",
                reason=reason,
            )


async def _check(
    client: SafeClient, user_id: str, draw: Callable[[], Awaitable[bytes]] | None
) -> None:
    profile = await _known(client, ["profile", user_id])
    name = text(profile, "displayname")
    if ASSISTANT.casefold() not in name.casefold():
        log.warning(
            "the account's display name is not one that people look for",
            display_name=name,
            lacks=ASSISTANT,
        )
    if draw is None or text(profile, "avatar_url"):
        return
    if not await _may_change(client):  # asked first: an upload would lie there for nothing
        log.info("the homeserver lets nobody change an avatar")
        return
    url = await _uploaded(client, user_id, draw)
    await client.ask("PUT", ["profile", user_id, "avatar_url"], {"avatar_url": url})
    log.info("avatar set", avatar_url=url)


async def _known(client: SafeClient, path: list[str]) -> Json:
    """Return what stands there, {} for nothing."""
    try:
        return await client.ask("GET", path)
    except Absent:
        return {}


async def _uploaded(client: SafeClient, user_id: str, draw: Callable[[], Awaitable[bytes]]) -> str:
    """Return where the picture is, which is uploaded once: a start after this one may ask again.

    Raises:
        MatrixError: the homeserver takes no file.
    """
    place = ["user", user_id, "account_data", _UPLOADED]
    if url := text(await _known(client, place), "url"):
        return url
    picture = await draw()
    uploading = client.upload(lambda *_: picture, "image/png", _FILE, filesize=len(picture))

    async def answer() -> object:
        return (await uploading)[0]

    url = (await call(nio.UploadResponse, answer())).content_uri
    await client.ask("PUT", place, {"url": url})
    return url


async def _may_change(client: SafeClient) -> bool:
    """Tell whether avatars may be changed (spec: m.profile_fields, m.set_avatar_url).

    What the homeserver does not say, it lets people do.
    """
    try:
        answer = await client.ask("GET", ["capabilities"])
    except Forbidden:  # it knows of no such thing
        return True
    known = mapping(answer.get("capabilities"))
    fields, old = mapping(known.get("m.profile_fields")), mapping(known.get("m.set_avatar_url"))
    allowed, disallowed = fields.get("allowed"), fields.get("disallowed")
    if fields.get("enabled") is False or old.get("enabled") is False:
        return False
    if isinstance(allowed, list):
        return "avatar_url" in allowed
    return not (isinstance(disallowed, list) and "avatar_url" in disallowed)
