"""The floor F: the smallest client that shows a completion like the bot, as a reference.

It has no history, ledger, encryption, receipts, Markdown or retries. It ends with its homeserver.
"""

import asyncio
import itertools
import json
import math
import re
import sys
import time

import aiohttp

_FIRST_AFTER = 1.5
_SENTENCE = re.compile(r".{19,}[.!?]\s")
_FILTER = json.dumps({"presence": {"types": []}, "room": {"ephemeral": {"types": []}}})


class Floor:
    """One account, which accepts every invitation and answers every text message."""

    def __init__(
        self, matrix: aiohttp.ClientSession, model: aiohttp.ClientSession, edit_interval: float
    ) -> None:
        self._matrix = matrix
        self._model = model
        self._edit_interval = edit_interval
        self._transactions = itertools.count()

    async def serve(self, user_id: str, password: str) -> None:
        """Log in, print one line when ready, and answer messages for ever."""
        login = {"type": "m.login.password", "user": user_id, "password": password}
        async with self._matrix.post("login", json=login) as response:
            token = (await response.json())["access_token"]
        self._matrix.headers["Authorization"] = f"Bearer {token}"
        print("ready", flush=True)
        query = {"timeout": "30000", "filter": _FILTER}
        async with asyncio.TaskGroup() as tasks:
            while True:
                async with self._matrix.get("sync", params=query) as response:
                    synced = await response.json()
                query["since"] = synced["next_batch"]
                rooms = synced.get("rooms", {})
                for room_id in rooms.get("invite", {}):
                    (await self._matrix.post(f"join/{room_id}", json={})).release()
                for room_id, room in rooms.get("join", {}).items():
                    for event in room["timeline"]["events"]:
                        if event["type"] == "m.room.message" and event["sender"] != user_id:
                            tasks.create_task(self._answer(room_id, event["content"]["body"]))

    async def _answer(self, room_id: str, prompt: str) -> None:
        text, shown, due, event_id = "", "", math.inf, None
        messages = [{"role": "user", "content": prompt}]
        request = {"model": "scripted", "stream": True, "messages": messages}
        async with self._model.post("chat/completions", json=request) as response:
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content", "")
                now = time.monotonic()
                if text and not shown:
                    due = now if _SENTENCE.search(text) else min(due, now + _FIRST_AFTER)
                if due <= now and text != shown:
                    event_id, shown = await self._show(room_id, text, event_id), text
                    due = time.monotonic() + self._edit_interval
        if text != shown:
            await self._show(room_id, text, event_id)

    async def _show(self, room_id: str, text: str, event_id: str | None) -> str:
        content: dict[str, object] = {"msgtype": "m.text", "body": text}
        if event_id:
            relation = {"rel_type": "m.replace", "event_id": event_id}
            content = {**content, "m.new_content": content, "m.relates_to": relation}
        path = f"rooms/{room_id}/send/m.room.message/{next(self._transactions)}"
        async with self._matrix.put(path, json=content) as response:
            sent: str = (await response.json())["event_id"]
        return event_id or sent


async def main(
    homeserver: str, model: str, user_id: str, password: str, edit_interval: str = "2"
) -> None:
    """Serve one account; both addresses are base URLs, the interval is in seconds."""
    async with (
        aiohttp.ClientSession(f"{homeserver}/_matrix/client/v3/", raise_for_status=True) as matrix,
        aiohttp.ClientSession(f"{model}/", raise_for_status=True) as backend,
    ):
        await Floor(matrix, backend, float(edit_interval)).serve(user_id, password)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
