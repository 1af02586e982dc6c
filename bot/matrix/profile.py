"""How people see the account: its display name and avatar (spec: profiles)."""

from collections.abc import Awaitable, Callable
from typing import Final

import nio
import structlog

from bot.core.names import ASSISTANT
from bot.errors import ENDING, Absent, MatrixError
from bot.matrix.failures import call
from bot.matrix.parse import Json, mapping, text
from bot.matrix.safe_client import SafeClient

_FILE: Final = "assistant-ia.png"

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
    try:
        profile = await _profile(client, user_id)
        name = text(profile, "displayname")
        if ASSISTANT.casefold() not in name.casefold():
            log.warning(
                "the account's display name is not one that people look for",
                display_name=name,
                lacks=ASSISTANT,
            )
        if draw is not None and not text(profile, "avatar_url"):
            await _give_avatar(client, user_id, await draw())
    except ENDING:
        raise
    except (MatrixError, OSError) as error:
        log.warning(
            "the account's profile is left as it is: give it an avatar by hand, or set"
            " matrix.avatar to keep",
            reason=str(error),
        )


async def _profile(client: SafeClient, user_id: str) -> Json:
    try:
        return await client.ask("GET", ["profile", user_id])
    except Absent:  # nothing of it was ever set
        return {}


async def _give_avatar(client: SafeClient, user_id: str, picture: bytes) -> None:
    """Upload the picture and show it, where the homeserver lets people change their avatars.

    Raises:
        MatrixError: it does not, or it refuses one of the two.
    """
    if not await _may_change(client):  # asked first: an upload would lie there for nothing
        log.info("the homeserver lets nobody change an avatar")
        return
    uploading = client.upload(lambda *_: picture, "image/png", _FILE, filesize=len(picture))

    async def answer() -> object:
        return (await uploading)[0]

    url = (await call(nio.UploadResponse, answer())).content_uri
    await client.ask("PUT", ["profile", user_id, "avatar_url"], {"avatar_url": url})
    log.info("avatar set", avatar_url=url)


async def _may_change(client: SafeClient) -> bool:
    """Tell whether avatars may be changed (spec: m.profile_fields, m.set_avatar_url)."""
    known = mapping((await client.ask("GET", ["capabilities"])).get("capabilities"))
    fields, old = mapping(known.get("m.profile_fields")), mapping(known.get("m.set_avatar_url"))
    allowed, disallowed = fields.get("allowed"), fields.get("disallowed")
    if fields.get("enabled") is False or old.get("enabled") is False:
        return False
    if isinstance(allowed, list):
        return "avatar_url" in allowed
    return not (isinstance(disallowed, list) and "avatar_url" in disallowed)
