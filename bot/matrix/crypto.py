"""End-to-end encryption that no single bad event, key or signature can stop.

matrix-nio's Olm machine lets whatever its parts raise escape: one to-device event of a stranger
would end the sync, one device's malformed keys everybody's key query. Here each is logged with its
ids and skipped, and the rest goes on.
"""

import asyncio
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import nio
import structlog
from nio.crypto import Olm, OlmDevice, TrustState
from nio.crypto.sessions import InboundGroupSession
from nio.store import SqliteStore
from typing_extensions import override

from bot.errors import MatrixError
from bot.matrix.failures import call

# vodozemac's exceptions are ValueErrors; the rest is what nio's own code makes of wrong shapes.
_BAD = (
    *(ValueError, AssertionError, AttributeError, LookupError, TypeError),
    RecursionError,  # JSON nested some thousand levels deep
    *(nio.EncryptionError, nio.exceptions.VerificationError),
)

log = structlog.get_logger()


class MemoryTrustStore(SqliteStore):
    """nio's store, which asks the devices in memory for their trust: nio has loaded them all.

    It asks for it at every event it decrypts; as SQL, that is most of what a decryption costs.
    """

    @override
    def is_device_verified(self, device: OlmDevice) -> bool:
        """Tell whether the device is verified."""
        return device.trust_state is TrustState.verified

    @override
    def is_device_blacklisted(self, device: OlmDevice) -> bool:
        """Tell whether the device is blacklisted."""
        return device.trust_state is TrustState.blacklisted

    @override
    def is_device_ignored(self, device: OlmDevice) -> bool:
        """Tell whether the device is ignored: given keys although nobody has verified it."""
        return device.trust_state is TrustState.ignored


class SafeOlm(Olm):
    """nio's Olm machine, in which every event, key and signature stands alone."""

    @override
    def handle_to_device_event(self, event: Any) -> Any:
        """Take in one to-device event; a bad one is logged and skipped.

        Its changes are written in one transaction: a one-time key that is used up without the
        session that it made would lose every message of that session.
        """
        try:
            with self.store.database.atomic():
                return super().handle_to_device_event(event)  # type: ignore[no-untyped-call]  # nio
        except _BAD as error:
            log.warning(
                "to-device event skipped",
                sender=getattr(event, "sender", None),
                kind=type(event).__name__,
                reason=type(error).__name__,
            )
            return None

    @override
    def verify_json(self, json: Any, user_key: str, user_id: str, device_id: str) -> bool:
        """Tell whether the signature holds; one that cannot be read does not."""
        kept = {key: json[key] for key in ("signatures", "unsigned") if key in json}
        try:
            return bool(super().verify_json(json, user_key, user_id, device_id))  # type: ignore[no-untyped-call]  # nio
        except _BAD as error:
            json |= kept  # nio takes them out while it verifies
            log.warning(
                "signature unreadable",
                user_id=user_id,
                device_id=device_id,
                reason=type(error).__name__,
            )
            return False

    @override
    def share_keys(self) -> dict[str, Any]:
        """Return the keys to upload, saved before the homeserver learns of them.

        A process that dies between upload and answer then offers the same keys again, which the
        homeserver accepts; others under the same ids it would refuse for ever.
        """
        content = super().share_keys()
        self.save_account()
        return content

    @override
    def create_group_session(
        self, sender_key: str, sender_fp_key: str, room_id: str, session_id: str, session_key: str
    ) -> None:
        """Store a Megolm session, unless the copy that is there reaches further back."""
        new = InboundGroupSession(session_key, sender_fp_key, sender_key, room_id)
        known = self.inbound_group_store.get(room_id, sender_key, session_id)
        if known is None or new.first_known_index < known.first_known_index:
            super().create_group_session(
                sender_key, sender_fp_key, room_id, session_id, session_key
            )

    @override
    def decrypt_megolm_event(self, event: nio.MegolmEvent, room_id: str | None = None) -> Any:
        """Decrypt, or raise nio's EncryptionError whatever is wrong with the event."""
        try:
            return super().decrypt_megolm_event(event, room_id)
        except nio.EncryptionError:
            raise
        except _BAD as error:
            raise nio.EncryptionError(type(error).__name__) from error


class SafeClient(nio.AsyncClient):
    """nio's client on the safe machine, which takes no state from what it decrypts."""

    @override
    def load_store(self) -> None:
        """Open the crypto store named in the configuration, once."""
        if self.store is not None or self.config.store is None:
            return
        self.store = self.config.store(
            self.user_id,
            str(self.device_id),
            str(self.store_path),
            self.config.pickle_key,
            self.config.store_name,
        )
        self.olm = SafeOlm(self.user_id, str(self.device_id), self.store)
        self.encrypted_rooms = self.store.load_encrypted_rooms()

    @override
    async def keys_upload(self) -> Any:
        """Upload device and one-time keys; let go of those that the homeserver refuses for good.

        It answers 400 where it holds other keys under the same ids (a store restored from a
        backup): the next upload brings new ones.
        """
        response = await super().keys_upload()
        refused = getattr(response.transport_response, "status", 0) == HTTPStatus.BAD_REQUEST
        if refused and self.olm is not None:
            log.warning("one-time keys refused", reason=getattr(response, "message", ""))
            self.olm.mark_keys_as_published()
            self.olm.save_account()
        return response

    @override
    async def share_group_session(
        self, room_id: str, ignore_unverified_devices: bool = False
    ) -> nio.ShareGroupSessionResponse:
        """Give the room's key to every device of its members, or fail and say so.

        What was not delivered is taken up at the next try; the session counts as shared only when
        every request was accepted. Whoever waits for the room is let go in any case.

        Raises:
            MatrixError: the homeserver did not take or give what this needs.
        """
        over = self.sharing_session[room_id] = asyncio.Event()
        try:
            return await self._share(room_id, ignore_unverified=ignore_unverified_devices)
        finally:
            del self.sharing_session[room_id]
            over.set()

    async def _share(
        self, room_id: str, *, ignore_unverified: bool
    ) -> nio.ShareGroupSessionResponse:
        if self.olm is None:
            raise MatrixError("the crypto store is not open")
        room = self.rooms[room_id]
        if not room.members_synced:
            await call(nio.JoinedMembersResponse, self.joined_members(room_id))
        if self.should_query_keys:
            await call(nio.KeysQueryResponse, self.keys_query())
        missing = self.get_missing_sessions(room_id)
        if missing:
            await call(nio.KeysClaimResponse, self.keys_claim(missing))
        shared: set[tuple[str, str]] = set()
        for devices, messages in self.olm.share_group_session_parallel(
            room_id, list(room.users), ignore_unverified_devices=ignore_unverified
        ):
            request = nio.Api.to_device(self.access_token, "m.room.encrypted", messages, uuid4())
            await call(
                nio.ShareGroupSessionResponse,
                self._send(
                    nio.ShareGroupSessionResponse, *request, response_data=(room_id, devices)
                ),
            )
            shared |= devices
        self.olm.outbound_group_sessions[room_id].shared = True
        return nio.ShareGroupSessionResponse(room_id, shared)

    @override
    def _handle_olm_events(self, response: nio.SyncResponse) -> None:
        """Take a missing or zero count of one-time keys for what it is: none are left."""
        super()._handle_olm_events(response)
        if self.olm is not None:
            self.olm.uploaded_key_count = response.device_key_count.signed_curve25519 or 0

    @override
    def _handle_timeline_event(
        self, event: Any, room_id: str, room: Any, encrypted_rooms: set[str]
    ) -> Any:
        """Decrypt without telling the room: a member's payload is not the homeserver's state."""
        if not isinstance(event, nio.MegolmEvent) or self.olm is None:
            return super()._handle_timeline_event(event, room_id, room, encrypted_rooms)
        event.room_id = room_id
        return self.olm._decrypt_megolm_no_error(event)  # noqa: SLF001  # what super() calls, too
