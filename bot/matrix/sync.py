"""The sync loop: one response at a time, keys kept fresh, what passes waited out."""

import asyncio
from collections.abc import AsyncIterator

import nio
import structlog

from bot.core.events import Batch
from bot.errors import AccountExpired, LoggedOut, MatrixError, RateLimited
from bot.insist import backoff
from bot.matrix.failures import call
from bot.matrix.rooms import Rooms
from bot.matrix.session import Session
from bot.shield import to_the_end

_LONG_POLL_MS = 30_000
_FIRST_SYNC_SECONDS = 600  # nio sets no limit of its own for a full state

FILTER = {
    "presence": {"types": []},
    "account_data": {"types": ["m.direct"]},
    "room": {
        "state": {"lazy_load_members": True},
        "timeline": {"limit": 50, "lazy_load_members": True},
        "ephemeral": {"types": []},
        "account_data": {"types": []},
    },
}

log = structlog.get_logger()


async def batches(session: Session, rooms: Rooms, since: str | None) -> AsyncIterator[Batch]:
    """Sync from `since` for ever and yield each response once, as our events.

    The first response carries the state of every room (nio keeps it in memory only); the token is
    kept until a response has come, whatever fails before.

    Raises:
        LoggedOut: the login is over and cannot be renewed.
        AccountExpired: the account must be renewed by mail.
    """
    token, first, failures = since, True, 0
    while True:
        try:
            await session.renew()
            response = await _sync(session.client, token, first=first)
        except RateLimited as error:
            log.warning("sync limited", retry_in=error.retry_after)
            await asyncio.sleep(error.retry_after)
        except AccountExpired:
            raise
        except LoggedOut as error:
            if not error.soft:
                raise
        except MatrixError as error:  # a proxy's page, too: no answer to /sync is for ever
            wait = backoff(failures)
            failures += 1
            log.warning("sync failed", reason=str(error), retry_in=round(wait, 1))
            await asyncio.sleep(wait)
        else:
            failures = 0
            await to_the_end(_keep_keys(session.client))
            events = rooms.hear(response, first=first, fresh=token is None)
            token, first = response.next_batch, False
            yield Batch(events, token)


async def _sync(client: nio.AsyncClient, token: str | None, *, first: bool) -> nio.SyncResponse:
    request = client.sync(
        timeout=0 if first else _LONG_POLL_MS,
        sync_filter=FILTER,
        since=token,
        full_state=first or None,
    )
    if first:
        request = asyncio.wait_for(request, _FIRST_SYNC_SECONDS)
    return await call(nio.SyncResponse, request)


async def _keep_keys(client: nio.AsyncClient) -> None:
    """Do what a sync may have made due: upload, query and claim keys, answer key requests."""
    try:
        if client.should_upload_keys:
            await call(nio.KeysUploadResponse, client.keys_upload())
        if client.should_query_keys:
            await call(nio.KeysQueryResponse, client.keys_query())
        if client.should_claim_keys:
            await call(
                nio.KeysClaimResponse, client.keys_claim(client.get_users_for_key_claiming())
            )
        await client.send_to_device_messages()
    except MatrixError as error:
        log.warning("keys not kept", reason=str(error))  # due again after the next sync
