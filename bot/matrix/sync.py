"""The sync loop: one response at a time, keys kept fresh, what passes waited out."""

import asyncio
from collections.abc import AsyncIterator

import nio
import structlog

from bot.core.events import Batch
from bot.errors import AccountExpired, BotError, LoggedOut, MatrixError, RateLimited
from bot.insist import backoff, pause
from bot.logs import log_bug
from bot.matrix.failures import call
from bot.matrix.rooms import Rooms
from bot.matrix.session import Session
from bot.shield import to_the_end

_LONG_POLL_MS = 30_000
_TRIES = 3  # of a response that nio cannot take in
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
            await to_the_end(_keep_keys(session.client))
            events = rooms.hear(response, first=first, fresh=token is None)
        except MatrixError as error:
            wait = _pause(error, failures)
            log.warning("sync failed", reason=str(error), retry_in=round(wait, 1))
        except BotError:
            raise
        except Exception as error:  # noqa: BLE001  # one response must not stop all that follow
            log_bug(error)
            token = _after_bug(session.client, token, failures)
            wait = backoff(failures)
        else:
            token, first, failures = response.next_batch, False, 0
            yield Batch(events, token)
            continue
        failures += 1
        await asyncio.sleep(wait)


def _pause(error: MatrixError, failures: int) -> float:
    """Return the seconds until the next try: no refusal of /sync is for ever but the account's."""
    if isinstance(error, RateLimited | LoggedOut | AccountExpired):
        return pause(error, failures)
    return backoff(failures)


def _after_bug(client: nio.AsyncClient, token: str | None, failures: int) -> str | None:
    """Return the token to go on from: the same one again, or past a response that always fails."""
    reached = client.next_batch  # nio sets it before it takes the response in
    if failures + 1 >= _TRIES:
        log.error("sync response given up", token=reached)
        return reached or token
    client.next_batch = token or ""  # else nio would pass over the same response
    return token


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
