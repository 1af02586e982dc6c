"""Parsing of responses for matrix-nio, with repairs of what nio cannot read.

nio rejects a whole response because of one malformed device, ignores fallback keys (MSC2732), and
takes an encrypted event without the deprecated `sender_key` for malformed (MSC3700,
https://github.com/matrix-nio/matrix-nio/issues/466).
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import nio
import structlog
from nio.responses import RoomEventRelationsResponse
from typing_extensions import override

from bot.matrix.json_fields import Json, is_text, mapping, text
from bot.matrix.state_events import is_space

_MEGOLM = "m.megolm.v1.aes-sha2"
_DEEPEST = 100  # levels of nesting; events of the spec have about five
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_NOTHING = {"rooms": {}, "device_one_time_keys_count": {"signed_curve25519": 50}}

log = structlog.get_logger()


@dataclass
class SyncResponse(nio.SyncResponse):
    """nio's response with the fields that nio leaves out.

    Attributes:
        unused_fallback_key_types: algorithms for which the homeserver holds an unclaimed fallback
            key; None if it does not say (spec: one-time and fallback keys).
        spaces: the rooms of invitations that are spaces.
    """

    unused_fallback_key_types: tuple[str, ...] | None = None
    spaces: frozenset[str] = frozenset()


@dataclass
class KeysQueryResponse(nio.KeysQueryResponse):
    """nio's response with the fields that nio leaves out.

    Attributes:
        source: the whole response, with its cross-signing keys.
    """

    source: Json = field(default_factory=dict)


@dataclass
class ObjectResponse(nio.Response):
    """A JSON object, for example an event, exactly as the homeserver returns it."""

    source: Json

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> "ObjectResponse | nio.ErrorResponse":
        """Accept any object without an error code."""
        return nio.ErrorResponse.from_dict(body) if "errcode" in body else cls(body)


@dataclass
class GuardedResponse(ObjectResponse):
    """The response to a request that may need the approval of the account's owner.

    Attributes:
        challenge: whether the homeserver asks for authentication, or rejected the last attempt
            (spec: user-interactive authentication).
    """

    challenge: bool = False

    @classmethod
    @override
    def from_dict(cls, body: dict[str, Any]) -> "GuardedResponse | nio.ErrorResponse":
        """Accept any object without an error code. A request for authentication is no error."""
        if "flows" in body:
            return cls(body, challenge=True)
        return nio.ErrorResponse.from_dict(body) if "errcode" in body else cls(body)


def read(expected: type[nio.Response], raw: bytes, data: tuple[Any, ...]) -> nio.Response:
    """Parse one response. Leave malformed parts out, or return nio's error response.

    Args:
        expected: nio's class for the response.
        raw: the body.
        data: further arguments of nio's class.
    """
    try:
        body = _json(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):  # nio would take it for an empty response
        return nio.ErrorResponse("no JSON object")
    if expected in _REPAIRS:
        _REPAIRS[expected](body)
    if expected is nio.SyncResponse:
        return _read_sync(body)
    if expected is nio.KeysQueryResponse:
        return _read_query(body)
    # each class has its own signature
    response: nio.Response = cast("Any", expected).from_dict(body, *data)
    return response


def _json(raw: bytes) -> Any:  # noqa: ANN401  # any JSON value
    """Parse JSON. Values nested too deep for Python become null.

    A stranger's event may be so deep if the homeserver's own parser accepts it.
    """
    try:
        return json.loads(raw)
    except RecursionError:
        log.warning("answer nested too deep", size=len(raw))
        return json.loads(_flattened(raw))


def _flattened(raw: bytes) -> bytes:
    kept, depth, start = [], 0, 0
    for token in _TOKENS.finditer(raw):
        if token[0] in b"[{":
            depth += 1
            if depth == _DEEPEST + 1:
                kept += [raw[start : token.start()], b"null"]
        elif token[0] in b"]}":
            if depth == _DEEPEST + 1:
                start = token.end()
            depth -= 1
    return b"".join([*kept, raw[start:]])


def _read_sync(body: dict[str, Any]) -> nio.Response:
    """Parse a sync response. If it stays unreadable after the repairs, log its ids and skip it.

    Its token is used all the same: the homeserver would return the same response again.
    """
    response: nio.Response
    try:
        response = nio.SyncResponse.from_dict(body)
    except Exception as error:  # noqa: BLE001  # nio's parsers raise any error
        response = nio.SyncError(type(error).__name__)
    token = body.get("next_batch")
    if isinstance(response, nio.SyncError) and isinstance(token, str) and "errcode" not in body:
        log.error("sync response given up", next_batch=token, rooms=list(_rooms(body)))
        response = nio.SyncResponse.from_dict(_NOTHING | {"next_batch": token})
    if not isinstance(response, nio.SyncResponse):
        return response
    types = body.get("device_unused_fallback_key_types")
    return SyncResponse(
        **vars(response),
        unused_fallback_key_types=tuple(types) if isinstance(types, list) else None,
        spaces=frozenset(_spaces(body)),
    )


def _read_query(body: dict[str, Any]) -> nio.Response:
    response: nio.Response = nio.KeysQueryResponse.from_dict(body)
    if not isinstance(response, nio.KeysQueryResponse):
        return response
    return KeysQueryResponse(response.device_keys, response.failures, body)


def _spaces(body: dict[str, Any]) -> Iterator[str]:
    for room_id, room in mapping(mapping(body.get("rooms")).get("invite")).items():
        events = mapping(mapping(room).get("invite_state")).get("events")
        if any(is_space(mapping(one)) for one in (events if isinstance(events, list) else [])):
            yield room_id


def _repair_sync(body: dict[str, Any]) -> None:
    for section in ("to_device", "account_data"):
        _repair_events(body.get(section), "events")
    for room in _rooms(body).values():
        for section in ("state", "timeline", "invite_state", "ephemeral", "account_data"):
            _repair_events(mapping(room).get(section), "events")


def _rooms(body: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of all rooms by room id."""
    kinds = mapping(body.get("rooms"))
    return {
        room_id: room
        for kind in ("join", "invite", "leave")
        for room_id, room in mapping(kinds.get(kind)).items()
    }


def _repair_messages(body: dict[str, Any]) -> None:
    _repair_events(body, "chunk")


def _repair_event(body: dict[str, Any]) -> None:
    _repair_events({"events": [body]}, "events")


def _repair_events(section: object, key: str) -> None:
    """Remove list items that are no events, and the fields of events that nio cannot read.

    Encrypted events get the fields that nio's schema requires. Nothing trusts these fields.
    """
    events = mapping(section).get(key)
    if not isinstance(events, list):
        return
    events[:] = [event for event in events if isinstance(event, dict)]
    for event in events:
        if "event_id" in event and not _is_time(event.get("origin_server_ts")):
            event["origin_server_ts"] = 0
        for holder, name in ((event, "unsigned"), (event.get("unsigned"), "prev_content")):
            if isinstance(holder, dict) and not isinstance(holder.get(name, {}), dict):
                del holder[name]
        content = event.get("content")
        if (
            event.get("type") == "m.room.encrypted"
            and isinstance(content, dict)
            and content.get("algorithm") == _MEGOLM
        ):
            content.setdefault("sender_key", "")
            content.setdefault("device_id", "")
        bundled = mapping(mapping(event.get("unsigned")).get("m.relations"))
        _repair_events({"edits": [bundled.get("m.replace")]}, "edits")


def _is_time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _repair_query(body: dict[str, Any]) -> None:
    _remove_malformed(body, "device_keys", _is_device)
    for _, _, device in _devices(body, "device_keys"):
        if "unsigned" in device:
            name = text(mapping(device["unsigned"]), "device_display_name")
            device["unsigned"] = {"device_display_name": name} if name else {}


def _repair_claim(body: dict[str, Any]) -> None:
    _remove_malformed(body, "one_time_keys", lambda key: isinstance(key, dict) and bool(key))


def _is_device(keys: object) -> bool:
    """Return whether the device has the shape that nio needs (spec: DeviceKeys)."""
    device = mapping(keys)
    signatures = device.get("signatures", {})
    return (
        all(text(device, key) for key in ("user_id", "device_id"))
        and _are_texts(device.get("algorithms"), list)
        and _are_texts(device.get("keys"), dict)
        and isinstance(signatures, dict)
        and all(_are_texts(one, dict) for one in signatures.values())
    )


def _are_texts(values: object, kind: type[list[str]] | type[dict[str, str]]) -> bool:
    if not isinstance(values, kind):
        return False
    texts = values.values() if isinstance(values, dict) else values
    return all(isinstance(one, str) and is_text(one) for one in texts)


def _remove_malformed(
    body: dict[str, Any], section: str, is_valid: Callable[[object], bool]
) -> None:
    """Remove the malformed devices of the section, and everything that is no device."""
    if not isinstance(body.get("failures", {}), dict):
        body["failures"] = {}
    if isinstance(body.get(section), dict):
        of_users = body[section].items()
        body[section] = {user_id: one for user_id, one in of_users if isinstance(one, dict)}
    for user_id, device_id, device in _devices(body, section):
        if not is_valid(device):
            del body[section][user_id][device_id]
            log.warning("device malformed", user_id=user_id, device_id=device_id, section=section)


def _devices(body: dict[str, Any], section: str) -> list[tuple[str, str, Any]]:
    return [
        (user_id, device_id, device)
        for user_id, devices in mapping(body.get(section)).items()
        for device_id, device in mapping(devices).items()
    ]


_REPAIRS: dict[type[nio.Response], Callable[[dict[str, Any]], None]] = {
    nio.SyncResponse: _repair_sync,
    nio.RoomMessagesResponse: _repair_messages,
    RoomEventRelationsResponse: _repair_messages,
    nio.RoomGetEventResponse: _repair_event,
    nio.KeysQueryResponse: _repair_query,
    nio.KeysClaimResponse: _repair_claim,
}
