"""The two measured sides behind one interface: stock matrix-nio, and the bot's own layer."""

import json
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

import nio
from nio.crypto.sessions import InboundGroupSession
from nio.store import SqliteStore
from typing_extensions import override

from bot.core.events import UserId
from bot.matrix import response_repair
from bot.matrix.crypto_store import CryptoStore
from bot.matrix.nio_client import SafeClient

USER_ID, DEVICE_ID = "@bot:x", "BOT"

_KEY = "s" * 32


class Side(ABC):
    """One client, with its store in its own directory."""

    client: nio.AsyncClient

    @property
    def olm(self) -> nio.crypto.Olm:
        """The Olm machine."""
        assert self.client.olm
        return self.client.olm

    async def enter(self, room_id: str) -> None:
        """Enter an encrypted room, and load its members."""
        self.client.rooms[room_id] = nio.MatrixRoom(room_id, USER_ID, encrypted=True)
        response = await self.client.joined_members(room_id)
        assert isinstance(response, nio.JoinedMembersResponse), response

    async def sync(self, filter_id: str) -> None:
        """Make a first sync."""
        response = await self.client.sync(timeout=0, sync_filter=filter_id, full_state=True)
        assert isinstance(response, nio.SyncResponse), response

    async def read(self, room_id: str, page: bytes) -> None:
        """Parse a page of the room's messages, and decrypt it."""
        response = self.parse(room_id, page)
        await self.client.receive_response(response)
        assert all(isinstance(event, nio.RoomMessageText) for event in response.chunk)

    @abstractmethod
    def at_once(self) -> AbstractContextManager[object]:
        """Write what the block stores in one transaction; for preparations, not measurements."""

    @abstractmethod
    def parse(self, room_id: str, page: bytes) -> nio.RoomMessagesResponse:
        """Parse a page of the room's messages."""

    @abstractmethod
    async def query(self) -> None:
        """Request the devices of all users whose devices are unknown."""

    @abstractmethod
    async def share(self, room_id: str) -> None:
        """Share the room's key with all its devices."""

    @abstractmethod
    def keep(self, session: InboundGroupSession, sender: str) -> None:
        """Store a Megolm session."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections and the store."""


class Stock(Side):
    """Stock matrix-nio on its SQLite store."""

    def __init__(self, homeserver: str, directory: Path) -> None:
        config = nio.AsyncClientConfig(store=SqliteStore, pickle_key=_KEY)
        self.client = nio.AsyncClient(
            homeserver, USER_ID, DEVICE_ID, store_path=str(directory), config=config
        )
        self.client.restore_login(USER_ID, DEVICE_ID, "token")

    @override
    def at_once(self) -> AbstractContextManager[object]:
        return self.olm.store.database.atomic()  # type: ignore[no-any-return]  # peewee has no hint

    @override
    def parse(self, room_id: str, page: bytes) -> nio.RoomMessagesResponse:
        response = nio.RoomMessagesResponse.from_dict(json.loads(page), room_id)
        assert isinstance(response, nio.RoomMessagesResponse), response
        return response

    @override
    async def query(self) -> None:
        response = await self.client.keys_query()
        assert isinstance(response, nio.KeysQueryResponse), response

    @override
    async def share(self, room_id: str) -> None:
        response = await self.client.share_group_session(room_id, ignore_unverified_devices=True)
        assert isinstance(response, nio.ShareGroupSessionResponse), response

    @override
    def keep(self, session: InboundGroupSession, sender: str) -> None:
        self.olm.inbound_group_store.add(session)
        self.olm.save_inbound_group_session(session)

    @override
    async def close(self) -> None:
        await self.client.close()  # type: ignore[no-untyped-call]  # nio has no hint
        self.olm.store.database.close()


class Ours(Side):
    """The bot's client, Olm machine and store."""

    client: SafeClient

    def __init__(self, homeserver: str, directory: Path) -> None:
        config = nio.AsyncClientConfig(max_limit_exceeded=0, max_timeouts=0)
        self.client = SafeClient(homeserver, USER_ID, DEVICE_ID, config=config)
        self.client.restore_login(USER_ID, DEVICE_ID, "token")
        self.client.open_store(CryptoStore(directory / "crypto.db", USER_ID, DEVICE_ID, _KEY))

    @override
    def at_once(self) -> AbstractContextManager[object]:
        return self.client.machine.store.transaction()

    @override
    def parse(self, room_id: str, page: bytes) -> nio.RoomMessagesResponse:
        response = response_repair.read(nio.RoomMessagesResponse, page, (room_id,))
        assert isinstance(response, nio.RoomMessagesResponse), response
        return response

    @override
    async def query(self) -> None:
        await self.client.query_keys()

    @override
    async def share(self, room_id: str) -> None:
        await self.client.share_key(room_id)

    @override
    def keep(self, session: InboundGroupSession, sender: str) -> None:
        self.client.machine.inbound_group_store.keep(session, UserId(sender))

    @override
    async def close(self) -> None:
        await self.client.close()  # type: ignore[no-untyped-call]  # nio has no hint
        self.client.machine.store.close()
