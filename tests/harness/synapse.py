"""A real homeserver: one Synapse process on SQLite, on the loopback interface only."""

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import signal
import sqlite3
import sys
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from uuid import uuid4

import aiohttp

from bot.core.events import RoomId, UserId
from tests.harness.network import free_port

Limits = Literal["wide", "default", "quick"]

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02
_CLIENT_API = "/_matrix/client/v3"
_RULES = "im.vector.room.access_rules"
_LOG_LINES_SHOWN = 20

# The pipe to the child closes at any end of this process, also by SIGKILL, and also on
# macOS. `os.read`, not `sys.stdin`: the lock of a buffered reader would break an orderly exit.
_SYNAPSE_THAT_ENDS_WITH_US = """
import os, threading
def end_with_parent():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
from synapse.app.homeserver import main
main()
"""


class Synapse:
    """A homeserver that keeps its port and data over `stop`, `kill` and `restart`.

    Attributes:
        url: base URL of the client-server API.
        database: the SQLite file.
        server_name: the part of user ids behind the colon.
        log: Synapse's log at WARNING and above, which has no text of messages.
    """

    def __init__(
        self,
        directory: Path,
        *,
        limits: Limits = "wide",
        server_name: str = "stand.test",
        uploads: str = "50M",
    ) -> None:
        """Prepare a homeserver in an empty directory.

        Args:
            directory: the directory for all its files.
            limits: the rate limits. "wide" is never reached, "default" is Synapse's own, "quick"
                is reached like the default and ends twenty times as fast.
            server_name: the part of user ids after the colon.
            uploads: the largest size of a file.
        """
        self.server_name = server_name
        self.log = directory / "synapse.log"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.database = directory / "synapse.db"
        self._config = directory / "homeserver.yaml"
        self._secret = secrets.token_urlsafe()
        self._admin_token: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._write_config(directory, uploads, _LIMITS[limits])

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """The process id, None while it does not run."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process and wait until it answers; RuntimeError with its log if it ends."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",  # no PYTHON* variable: they can forbid the bytecode that halves the start
                "-c",
                _SYNAPSE_THAT_ENDS_WITH_US,
                f"--config-path={self._config}",
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Coverage follows the bot's processes, and would slow this one down.
                env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")},
                start_new_session=True,  # no Ctrl-C of a terminal: this process stops it in order
            )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._wait_until_it_answers(self._process)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Stop the process in order (SIGTERM), if it runs."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Kill the process (SIGKILL), as a crash does."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop in order and start again, with the same port and data."""
        await self.stop()
        await self.start()

    async def register(
        self, localpart: str, password: str, *, admin: bool = False, displayname: str | None = None
    ) -> UserId:
        """Create an account that has no device yet."""
        account = {"username": localpart, "password": password, "admin": admin}
        profile = {"displayname": displayname or localpart}
        reply = await self._register({**account, **profile, "inhibit_login": True})
        return UserId(reply["user_id"])

    async def crowded_room(self, count: int) -> RoomId:
        """Make a public encrypted salon with a number of members who have no keys."""
        host, *others = [await self._newcomer(number) for number in range(1, count + 1)]
        encryption = {"algorithm": "m.megolm.v1.aes-sha2"}
        initial = [
            {"type": "m.room.encryption", "state_key": "", "content": encryption},
            {"type": _RULES, "state_key": "", "content": {"rule": "restricted"}},
        ]
        room = {"preset": "public_chat", "name": "Ministère", "initial_state": initial}
        levels = {"power_level_content_override": {"invite": 0}}
        made = await self._call("POST", f"{_CLIENT_API}/createRoom", {**room, **levels}, host)
        for token in others:
            await self._call("POST", f"{_CLIENT_API}/join/{made['room_id']}", {}, token)
        return RoomId(made["room_id"])

    async def _newcomer(self, number: int) -> str:
        """Return the access token of a new account."""
        account = {"username": f"agent-{uuid4().hex}", "password": secrets.token_urlsafe()}
        profile = {"displayname": f"Agent {number}", "admin": False}
        return str((await self._register({**account, **profile}))["access_token"])

    async def lift_limits(self, user_id: UserId) -> None:
        """Take the message rate limit off one account (Synapse's `override_ratelimit`)."""
        path = f"users/{user_id}/override_ratelimit"
        await self._administer("POST", path, {"messages_per_second": 0, "burst_count": 0})

    async def members(self, room_id: RoomId) -> list[str]:
        """Return the joined members of the room, from the homeserver's database."""
        found = await self._administer("GET", f"rooms/{room_id}/members")
        return [str(user_id) for user_id in found["members"]]

    def said_by(self, user_id: UserId) -> list[tuple[RoomId, str]]:
        """Return room and type of each message of an account, from the database."""
        query = (
            "SELECT room_id, type FROM events"
            " WHERE sender = ? AND type IN ('m.room.message', 'm.room.encrypted')"
            " ORDER BY stream_ordering"
        )
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return [(RoomId(room), kind) for room, kind in database.execute(query, [user_id])]

    def backed_up_keys(self, user_id: UserId) -> int:
        """Return the number of keys in the account's backups, from the database."""
        query = "SELECT count(*) FROM e2e_room_keys WHERE user_id = ?"
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            [[count]] = database.execute(query, [user_id])
        return int(count)

    async def _administer(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Call Synapse's admin API, as an administrator that the first call creates."""
        if self._admin_token is None:
            account = {"username": "stand-admin", "password": secrets.token_urlsafe()}
            self._admin_token = (await self._register({**account, "admin": True}))["access_token"]
        return await self._call(method, f"/_synapse/admin/v1/{path}", body)

    async def _wait_until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                if process.returncode is not None:
                    lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
                    raise RuntimeError("\n".join(["Synapse did not start:", *lines]))
                try:
                    async with http.get(f"{self.url}/_matrix/client/versions"):
                        return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(_POLL_SECONDS)

    async def _end(self, signum: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(signum)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise

    async def _register(self, account: dict[str, Any]) -> dict[str, Any]:
        # Synapse's shared-secret registration: the fields, joined by NUL, are signed.
        nonce = (await self._call("GET", "/_synapse/admin/v1/register"))["nonce"]
        role = "admin" if account["admin"] else "notadmin"
        signed = "\0".join([nonce, account["username"], account["password"], role])
        mac = hmac.new(self._secret.encode(), signed.encode(), hashlib.sha1).hexdigest()
        body = {**account, "nonce": nonce, "mac": mac}
        return await self._call("POST", "/_synapse/admin/v1/register", body)

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, token: str | None = None
    ) -> dict[str, Any]:
        token = token or self._admin_token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession(self.url, headers=headers) as http,
            http.request(method, path, json=body) as response,
        ):
            reply: dict[str, Any] = await response.json()
            if not response.ok:
                raise RuntimeError(f"{method} {path}: {response.status} {reply}")
            return reply

    def _write_config(self, directory: Path, uploads: str, limits: dict[str, Any]) -> None:
        logging = directory / "logging.yaml"
        logging.write_text(json.dumps(_LOGGING))
        listener = {
            "type": "http",
            "port": self._port,
            "bind_addresses": ["127.0.0.1"],
            "resources": [{"names": ["client"]}],
        }
        config = {
            "server_name": self.server_name,
            "public_baseurl": self.url,
            "listeners": [listener],
            "database": {"name": "sqlite3", "args": {"database": str(self.database)}},
            "media_store_path": str(directory / "media"),
            "max_upload_size": uploads,
            "log_config": str(logging),
            "signing_key": f"ed25519 stand {b64encode(secrets.token_bytes(32)).decode()}",
            "macaroon_secret_key": secrets.token_urlsafe(),
            "registration_shared_secret": self._secret,
            **_ALONE_AND_FAST,
            **limits,
        }
        self._config.write_text(json.dumps(config))  # JSON is YAML


_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
}

_ALONE_AND_FAST = {
    "federation_domain_whitelist": [],
    "trusted_key_servers": [],
    "suppress_key_server_warning": True,
    "report_stats": False,
    "presence": {"enabled": False},
    "bcrypt_rounds": 4,
}

_WIDE = {"per_second": 100_000, "burst_count": 100_000}
_WIDE_LIMITS = {
    "rc_message": _WIDE,
    "rc_login": {"address": _WIDE, "account": _WIDE, "failed_attempts": _WIDE},
    "rc_joins": {"local": _WIDE, "remote": _WIDE},
    "rc_joins_per_room": _WIDE,
    "rc_invites": {"per_room": _WIDE, "per_user": _WIDE, "per_issuer": _WIDE},
    "rc_room_creation": _WIDE,
    "rc_key_requests": _WIDE,
    "rc_media_create": _WIDE,
    "rc_profile": _WIDE,
}
_LIMITS: dict[Limits, dict[str, Any]] = {
    "wide": _WIDE_LIMITS,
    "default": {},
    "quick": {**_WIDE_LIMITS, "rc_message": {"per_second": 4, "burst_count": 10}},
}
