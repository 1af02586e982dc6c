"""The sync loop: fetches one response at a time, completes it, and keeps the keys up to date."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import nio
import structlog

from bot.core.events import Batch, Event, RoomId, UserId
from bot.errors import (
    BotError,
    FatalError,
    Forbidden,
    IdentityError,
    MatrixError,
    RateLimited,
    SoftLogout,
)
from bot.matrix import timeline_gaps
from bot.matrix.error_mapping import call
from bot.matrix.nio_client import SafeClient
from bot.matrix.room_events import Rooms
from bot.matrix.room_history_keys import RoomHistoryKeys
from bot.matrix.session import Session
from bot.matrix.time_slice import TimeSlice
from bot.matrix.verification import Verifications
from bot.monitoring.health import Health
from bot.monitoring.logs import log_bug
from bot.runtime.retry import backoff, pause
from bot.runtime.uncancellable import run_uncancelled

_LONG_POLL_MS, _SHORT_POLL_MS = 30_000, 2_000
_TO_DEVICE_EVENTS = 100  # Synapse returns at most 100 in one response
_LONGEST_DRAIN = 50  # responses, in case somebody never stops sending
_GAP_TRIES = 5  # about half a minute
_TRIES = 3  # tries of a response that nio cannot process
_PRUNE_SECONDS = 3600.0
_CLAIM_SECONDS = 60.0  # between two tries to start a new session with a device

FILTER: dict[str, dict[str, Any]] = {
    "presence": {"types": []},
    "account_data": {"types": ["m.direct"]},
    "room": {
        "state": {"lazy_load_members": True},
        "timeline": {"limit": 50, "lazy_load_members": True},
        "ephemeral": {"types": []},
        "account_data": {"types": []},
    },
}

# Without this filter, the first sync of a process would leave out members that the homeserver has
# sent to an earlier process, such as the bot itself (spec: lazy-loading room members).
_FIRST_FILTER = {
    **FILTER,
    "room": {
        **FILTER["room"],
        "state": {"lazy_load_members": True, "include_redundant_members": True},
    },
}

log = structlog.get_logger()


async def batches(
    session: Session,
    rooms: Rooms,
    verifications: Verifications,
    health: Health,
    since: str | None,
) -> AsyncIterator[Batch]:
    """Sync from `since` for ever, and yield each response once, as core events.

    The first response carries the state of every room, because nio keeps it in memory only. The
    token is kept until a response has come, and a response until its gaps are filled, whatever
    fails meanwhile.

    Raises:
        LoggedOut: the login has ended and cannot be renewed.
        AccountExpired: the account must be renewed by e-mail.
    """
    loop, failures = _Loop(session, rooms, verifications, health, since), 0
    while True:
        health.beat()
        try:
            batch = await loop.next_batch()
        except MatrixError as error:
            wait = _pause(error, failures)
            log.warning("sync failed", reason=str(error), retry_in=round(wait, 1))
        except BotError:
            raise
        except Exception as error:  # noqa: BLE001  # one response must not stop all later ones
            log_bug(error)
            loop.skip_or_retry(failures)
            wait = backoff(failures)
        else:
            failures = 0
            health.synced()
            yield batch
            continue
        failures += 1
        await asyncio.sleep(wait)


class _Loop:
    """The state of the sync between two responses."""

    def __init__(
        self,
        session: Session,
        rooms: Rooms,
        verifications: Verifications,
        health: Health,
        since: str | None,
    ) -> None:
        self._session = session
        self._client = session.client
        self._rooms = rooms
        self._verifications = verifications
        self._health = health
        wanted = session.vault.history_on_invite
        history_keys = RoomHistoryKeys(session.client, rooms, wanted=wanted)
        self._upkeep = _Upkeep(session, history_keys)
        self._token = since
        self._first = True
        self._refused = False  # whether the homeserver refused the token of an earlier process
        self._responses: deque[nio.SyncResponse] = deque()  # not yet returned
        self._drained = False
        self._gap_failures = 0  # consecutive ones

    async def next_batch(self) -> Batch:
        """Return the next response's events. After an error, the next call retries."""
        await self._session.renew()
        if not self._responses:
            self._drained = False
            self._responses.append(
                await self._first_sync() if self._first else await self._sync(self._token)
            )
        if not self._drained:
            await self._drain()
        response = self._responses[0]
        if self._token is not None or self._refused:
            await self._fill(response, self._token)
        await run_uncancelled(self._upkeep.run())
        if response.next_batch == self._token:  # nothing is new, and the response came at once
            await asyncio.sleep(backoff(0))
        events: list[Event] = []
        time_slice = TimeSlice()
        fresh = self._token is None and not self._refused
        for of_room in self._rooms.read_response(response, first=self._first, fresh=fresh):
            events += of_room
            await time_slice.yield_if_over()
        keys, missed = self._rooms.key_news(response), self._first
        asked = self._verifications.read_response(response, self._health.clock.now())
        self._token, self._first, self._refused = response.next_batch, False, False
        self._responses.popleft()
        closed = self._rooms.take_closed()
        without, self._client.left_out = self._client.left_out, []
        left_out = tuple((RoomId(room_id), UserId(user_id)) for room_id, user_id in without)
        return Batch(
            events=tuple(events),
            next_batch=self._token,
            keys=keys,
            verifications=asked,
            left_out=left_out,
            closed=closed,
            missed=missed,
        )

    async def _first_sync(self) -> nio.SyncResponse:
        """Sync from the token of an earlier process, or anew if the homeserver refuses the token.

        It refuses a token that it has not issued, for example after its own backup was restored.
        The messages of the last day are then read again; the ledger knows which are new.
        """
        try:
            return await self._sync(self._token)
        except Forbidden as error:
            if self._token is None:
                raise
            # raises if it refuses other requests as well
            await call(nio.WhoamiResponse, self._client.whoami())
            log.warning("sync token refused", reason=str(error))
            self._token, self._refused = None, True
            self._client.next_batch = ""
            return await self._sync(None)

    async def _fill(self, response: nio.SyncResponse, since: str | None) -> None:
        for room_id, info in response.rooms.join.items():
            if info.timeline.limited:
                self._rooms.miss(RoomId(room_id))
        insist = self._gap_failures < _GAP_TRIES
        me, health = self._rooms.me, self._health
        try:
            await timeline_gaps.fill(self._client, response, since, me, health, insist=insist)
        except MatrixError:
            self._gap_failures += 1
            raise
        self._gap_failures = 0

    async def _drain(self) -> None:
        """Fetch the to-device messages behind a full response, then decrypt the response again.

        A homeserver returns a limited number at a time, and the needed room keys may be the last.
        """
        while self._full() and len(self._responses) < _LONGEST_DRAIN:
            self._health.beat()
            token = self._responses[-1].next_batch
            self._responses.append(await self._sync(token, wait_ms=0))
        if len(self._responses) > 1:
            for response in self._responses:
                self._client.read_again(response)
        self._drained = True

    def _full(self) -> bool:
        return len(self._responses[-1].to_device_events) >= _TO_DEVICE_EVENTS

    def skip_or_retry(self, failures: int) -> None:
        """Retry the same response after a bug; skip it if it always fails."""
        reached = self._responses[0].next_batch if self._responses else self._client.next_batch
        self._responses.clear()
        if failures + 1 >= _TRIES:
            log.error("sync response given up", token=reached)
            self._rooms.miss()
            self._token = reached or self._token
        self._client.next_batch = self._token or ""  # otherwise nio would skip the same response

    async def _sync(self, token: str | None, wait_ms: int = _LONG_POLL_MS) -> nio.SyncResponse:
        first = self._first and token == self._token
        request = self._client.sync(
            timeout=0 if first else min(wait_ms, self._upkeep.wait_ms),
            sync_filter=_FIRST_FILTER if first else FILTER,
            since=token,
            full_state=first or None,
        )
        return await call(nio.SyncResponse, request)


def _pause(error: MatrixError, failures: int) -> float:
    """Return the seconds until the next try. Only a refusal of the account is final."""
    if isinstance(error, RateLimited | SoftLogout | FatalError):
        return pause(error, failures)
    return backoff(failures)


class _Upkeep:
    """Work that a sync may make due: uploading, querying, claiming and pruning keys."""

    def __init__(self, session: Session, history_keys: RoomHistoryKeys) -> None:
        self._client: SafeClient = session.client
        self._history_keys = history_keys
        self._identity = session.identity
        self._keep_days = session.vault.keep_days
        self._failures = 0
        self._due = self._claim_due = self._prune_due = 0.0  # in the loop's time

    @property
    def wait_ms(self) -> int:
        """The time that the next sync may wait: short if a failed step must be repeated soon."""
        return _LONG_POLL_MS if self._failures == 0 else _SHORT_POLL_MS

    async def run(self) -> None:
        """Do what is due. A failed step is repeated after a pause, and stops no other step."""
        now = asyncio.get_running_loop().time()
        if now >= self._prune_due:
            self._prune_due = now + _PRUNE_SECONDS
            forgotten = self._client.machine.inbound_group_store.prune(self._keep_days)
            log.info("room keys pruned", forgotten=forgotten)
        if now < self._due:
            return
        failed = False
        backup = self._identity.backup
        for step in (
            *(self._upload, self._client.query_keys, self._claim, self._send),
            *(
                self._check_own_devices,
                self._history_keys.import_bundles,
                backup.add_missing_keys,
                backup.remove,
            ),
        ):
            try:
                await step()
            except MatrixError as error:
                failed = True
                log.warning("keys not kept", step=step.__name__, reason=str(error))
        later = asyncio.get_running_loop().time() + backoff(self._failures)
        self._due = later if failed else 0.0
        self._failures = self._failures + 1 if failed else 0

    async def _check_own_devices(self) -> None:
        """Check the account's own devices, if a sync has shown a change."""
        if self._client.own_devices_changed:
            try:
                await self._identity.look_again()
            except IdentityError as error:  # an operator decides at the next start
                log.error("identity not in order", reason=str(error))  # noqa: TRY400  # no bug
            self._client.own_devices_changed = False

    async def _upload(self) -> None:
        if self._client.should_upload_keys:
            await call(nio.KeysUploadResponse, self._client.keys_upload())

    async def _claim(self) -> None:
        """Start new sessions with devices whose messages no session could decrypt."""
        client, now = self._client, asyncio.get_running_loop().time()
        if client.should_claim_keys and now >= self._claim_due:
            self._claim_due = now + _CLAIM_SECONDS
            await client.claim_keys([client.get_users_for_key_claiming()])
            # the next undecryptable message adds the device again
            client.machine.wedged_devices.clear()

    async def _send(self) -> None:
        """Send the Olm machine's to-device messages. A refused one is not repeated."""
        client = self._client
        while messages := client.outgoing_to_device_messages:
            message = messages[0]
            try:
                await call(nio.ToDeviceResponse, client.to_device(message))
            except Forbidden as error:
                messages.remove(message)
                log.warning("to-device message refused", reason=str(error))
