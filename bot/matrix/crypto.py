"""End-to-end encryption that no single bad event, key or signature can stop.

matrix-nio's Olm machine lets whatever its parts raise escape: one to-device event of a stranger
would end the sync, one device's malformed keys everybody's key query. Here each is logged with its
ids and skipped, and the rest goes on.
"""

from typing import Any

import nio
import structlog
from nio.crypto import Olm
from nio.crypto.sessions import InboundGroupSession
from typing_extensions import override

# vodozemac's exceptions are ValueErrors; the rest is what nio's own code makes of wrong shapes.
_BAD = (
    *(ValueError, AssertionError, AttributeError, LookupError, TypeError),
    *(nio.EncryptionError, nio.exceptions.VerificationError),
)

log = structlog.get_logger()


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
