"""A homeserver for measurements of the crypto layer: it responds at once and stores no events.

As a program it serves until its stdin closes, at the address that it prints. It is a process of
its own, so that its work does not count for the measured event loop. A room's id tells its
members: `!100x3:x` has 100 members with 3 devices each, whose Olm accounts are real.
"""

import asyncio
import base64
import json
import random
import re
import sys
from functools import cache
from typing import Any

import nio
from aiohttp import web
from nio.crypto import OlmAccount

_NUMBERS = re.compile(r"\d+")
_ROOMS = 300
_MESSAGES = 10
_LONGEST_BODY = 1 << 26

_PATH = "/_matrix/client/v3"


def members(room_id: str) -> list[str]:
    """Return the members of the room `!{users}x{devices}:…`."""
    users, devices = (int(number) for number in _NUMBERS.findall(room_id))
    return [f"@u{number}x{devices}:x" for number in range(users)]


class Homeserver:
    """The endpoints for keys, and /sync."""

    def __init__(self) -> None:
        self._account = cache(self._new_account)
        self._sync = cache(first_sync)
        self._given: set[tuple[str, str]] = set()

    @staticmethod
    def _new_account(_user_id: str, _device_id: str) -> OlmAccount:
        return OlmAccount()

    def app(self) -> web.Application:
        """Return the application with the endpoints."""
        app = web.Application(client_max_size=_LONGEST_BODY)
        app.router.add_get(f"{_PATH}/rooms/{{room_id}}/joined_members", self._members)
        app.router.add_post(f"{_PATH}/keys/query", self._query)
        app.router.add_post(f"{_PATH}/keys/claim", self._claim)
        app.router.add_put(f"{_PATH}/sendToDevice/{{type}}/{{transaction}}", self._give)
        app.router.add_get(f"{_PATH}/sync", self._first_sync)
        app.router.add_get("/given", self._tell)
        return app

    async def _members(self, request: web.Request) -> web.Response:
        users = members(request.match_info["room_id"])
        return web.json_response({"joined": {user: {"display_name": user[1:]} for user in users}})

    async def _query(self, request: web.Request) -> web.Response:
        wanted = (await request.json())["device_keys"]
        keys = {user: self._devices(user) for user in wanted}
        return web.json_response({"device_keys": keys, "failures": {}})

    def _devices(self, user_id: str) -> dict[str, Any]:
        _, devices = (int(number) for number in _NUMBERS.findall(user_id))
        return {name: self._device(user_id, name) for name in map("D{}".format, range(devices))}

    def _device(self, user_id: str, device_id: str) -> dict[str, Any]:
        keys = self._account(user_id, device_id).identity_keys
        device = {
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "device_id": device_id,
            "user_id": user_id,
            "keys": {f"{kind}:{device_id}": key for kind, key in keys.items()},
        }
        return self._signed(user_id, device_id, device) | {
            "unsigned": {"device_display_name": f"Phone {device_id}"}
        }

    async def _claim(self, request: web.Request) -> web.Response:
        wanted = (await request.json())["one_time_keys"]
        keys = {user: {name: self._key(user, name) for name in wanted[user]} for user in wanted}
        return web.json_response({"one_time_keys": keys, "failures": {}})

    def _key(self, user_id: str, device_id: str) -> dict[str, Any]:
        account = self._account(user_id, device_id)
        account.generate_one_time_keys(1)
        [(key_id, key)] = account.one_time_keys["curve25519"].items()
        account.mark_keys_as_published()
        return {f"signed_curve25519:{key_id}": self._signed(user_id, device_id, {"key": key})}

    def _signed(self, user_id: str, device_id: str, value: dict[str, Any]) -> dict[str, Any]:
        """Return the object with the device's signature (spec: signing JSON)."""
        canonical = nio.Api.to_canonical_json(value)
        signature = self._account(user_id, device_id).sign(canonical)
        return value | {"signatures": {user_id: {f"ed25519:{device_id}": signature}}}

    async def _give(self, request: web.Request) -> web.Response:
        messages = (await request.json())["messages"]
        self._given |= {(user, device) for user, devices in messages.items() for device in devices}
        return web.json_response({})

    async def _tell(self, _: web.Request) -> web.Response:
        """Return how many devices got a message since the last request."""
        given, self._given = len(self._given), set()
        return web.json_response(given)

    async def _first_sync(self, request: web.Request) -> web.Response:
        """Answer a first sync; the filter's id is the number of members of each room."""
        body = self._sync(int(request.query["filter"]))
        return web.Response(body=body, content_type="application/json")


def first_sync(users: int) -> bytes:
    """Return a /sync response with 300 encrypted rooms of that many members."""
    joined = {f"!room{number}:x": _room(number, users) for number in range(_ROOMS)}
    body = {
        "next_batch": "s1",
        "rooms": {"join": joined, "invite": {}, "leave": {}},
        "to_device": {"events": []},
        "device_one_time_keys_count": {"signed_curve25519": 50},
        "device_unused_fallback_key_types": ["signed_curve25519"],
    }
    return json.dumps(body).encode()


def _room(number: int, users: int) -> dict[str, Any]:
    names = [f"@u{(number + one) % _ROOMS}x1:x" for one in range(users)]
    state = [
        _state("m.room.create", names[0], {"creator": names[0], "room_version": "10"}),
        _state("m.room.join_rules", names[0], {"join_rule": "invite"}),
        _state("m.room.power_levels", names[0], {"users": {names[0]: 100}, "users_default": 0}),
        _state("m.room.name", names[0], {"name": f"Room {number}"}),
        _state("m.room.encryption", names[0], {"algorithm": "m.megolm.v1.aes-sha2"}),
        *(_member(name) for name in names),
    ]
    said = [_encrypted(names[one % users]) for one in range(_MESSAGES)]
    return {
        "state": {"events": state},
        "timeline": {"events": said, "limited": True, "prev_batch": "p1"},
        "ephemeral": {"events": []},
        "account_data": {"events": []},
        "summary": {"m.joined_member_count": users, "m.invited_member_count": 0},
        "unread_notifications": {"notification_count": 0, "highlight_count": 0},
    }


def _state(kind: str, sender: str, content: dict[str, Any], key: str = "") -> dict[str, Any]:
    return _event(kind, sender, content) | {"state_key": key}


def _member(user_id: str) -> dict[str, Any]:
    content = {
        "membership": "join",
        "displayname": user_id[1:],
        "avatar_url": f"mxc://x/{_id(24)}",
    }
    return _state("m.room.member", user_id, content, user_id)


def _encrypted(sender: str) -> dict[str, Any]:
    content = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "ciphertext": _id(400),
        "device_id": "D0",
        "sender_key": _id(44),
        "session_id": _id(44),
    }
    return _event("m.room.encrypted", sender, content)


def _event(kind: str, sender: str, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": kind,
        "event_id": f"${_id(44)}",
        "sender": sender,
        "origin_server_ts": 1_700_000_000_000,
        "content": content,
        "unsigned": {"age": 1234},
    }


def _id(length: int) -> str:
    """Return random letters; the length is a multiple of 4."""
    return base64.urlsafe_b64encode(random.randbytes(length * 3 // 4)).decode()  # noqa: S311  # no secret


async def main() -> None:
    """Serve until stdin closes."""
    runner = web.AppRunner(Homeserver().app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
