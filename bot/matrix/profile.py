"""The account's profile: display name and avatar (spec: profiles)."""

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

_PATIENCE: Final = 30.0  # seconds that a start may wait
_FILE: Final = "assistant-ia.png"
_UPLOADED: Final = "fr.gouv.assistant.avatar"  # account data that holds the uploaded picture's URI

log = structlog.get_logger()


async def check_profile(
    client: SafeClient, user_id: str, draw: Callable[[], Awaitable[bytes]] | None
) -> None:
    """Give the account an avatar if it has none; log a display name that should be improved.

    People recognise the assistant by both. A failure is logged, and does not stop the start.

    Args:
        client: the logged-in client.
        user_id: the account.
        draw: returns the picture as PNG; None to leave the avatar as it is.
    """
    with costing_nothing():
        try:
            async with asyncio.timeout(_PATIENCE):
                await _check(client, user_id, draw)
        except (MatrixError, OSError, TimeoutError) as error:  # some of them would end the start
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
    profile = await _get(client, ["profile", user_id])
    name = text(profile, "displayname")
    if ASSISTANT.casefold() not in name.casefold():
        log.warning(
            "the account's display name is not one that people look for",
            display_name=name,
            lacks=ASSISTANT,
        )
    if draw is None or text(profile, "avatar_url"):
        return
    if not await _may_change(client):  # asked first: otherwise the upload would be useless
        log.info("the homeserver lets nobody change an avatar")
        return
    url = await _uploaded(client, user_id, draw)
    await client.ask("PUT", ["profile", user_id, "avatar_url"], {"avatar_url": url})
    log.info("avatar set", avatar_url=url)


async def _get(client: SafeClient, path: list[str]) -> Json:
    """Return one object of the profile or the account data; {} if there is none."""
    try:
        return await client.ask("GET", path)
    except Absent:
        return {}


async def _uploaded(client: SafeClient, user_id: str, draw: Callable[[], Awaitable[bytes]]) -> str:
    """Return the URI of the picture. It is uploaded once, and a later start uses it again.

    Raises:
        MatrixError: the homeserver accepts no file.
    """
    place = ["user", user_id, "account_data", _UPLOADED]
    if url := text(await _get(client, place), "url"):
        return url
    picture = await draw()
    uploading = client.upload(lambda *_: picture, "image/png", _FILE, filesize=len(picture))

    async def answer() -> object:
        return (await uploading)[0]

    url = (await call(nio.UploadResponse, answer())).content_uri
    await client.ask("PUT", place, {"url": url})
    return url


async def _may_change(client: SafeClient) -> bool:
    """Return whether avatars may be changed (spec: m.profile_fields, m.set_avatar_url).

    What the homeserver does not mention is allowed.
    """
    try:
        answer = await client.ask("GET", ["capabilities"])
    except Forbidden:  # an older homeserver without capabilities
        return True
    known = mapping(answer.get("capabilities"))
    fields, old = mapping(known.get("m.profile_fields")), mapping(known.get("m.set_avatar_url"))
    allowed, disallowed = fields.get("allowed"), fields.get("disallowed")
    if fields.get("enabled") is False or old.get("enabled") is False:
        return False
    if isinstance(allowed, list):
        return "avatar_url" in allowed
    return not (isinstance(disallowed, list) and "avatar_url" in disallowed)
