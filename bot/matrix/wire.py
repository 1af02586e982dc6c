"""From the bytes of an answer to matrix-nio's response, past what nio would choke on.

nio refuses a whole answer for one malformed device, knows no fallback keys, and takes an encrypted
event without `sender_key` (which the spec has deprecated, MSC3700) for a broken one.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import nio
import structlog

from bot.matrix.parse import mapping, text

_MEGOLM = "m.megolm.v1.aes-sha2"

log = structlog.get_logger()


@dataclass
class SyncResponse(nio.SyncResponse):
    """nio's response, with what it leaves out.

    Attributes:
        unused_fallback_key_types: the algorithms for which the homeserver holds a fallback key
            that nobody has claimed; None where it does not say (spec: one-time and fallback keys).
    """

    unused_fallback_key_types: tuple[str, ...] | None = None


def read(expected: type[nio.Response], raw: bytes, data: tuple[Any, ...]) -> nio.Response:
    """Parse one answer; what is malformed in it is left out, or makes it nio's error response.

    Args:
        expected: nio's class for the answer.
        raw: the body.
        data: what nio's class wants to know besides.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):  # nio would take it for an empty answer
        return nio.ErrorResponse("no JSON object")
    if expected in _REPAIRS:
        _REPAIRS[expected](body)
    response: nio.Response = cast("Any", expected).from_dict(body, *data)  # each has its own
    if isinstance(response, nio.SyncResponse):
        types = body.get("device_unused_fallback_key_types")
        return SyncResponse(
            **vars(response),
            unused_fallback_key_types=tuple(types) if isinstance(types, list) else None,
        )
    return response


def _repair_sync(body: dict[str, Any]) -> None:
    for room in mapping(mapping(body.get("rooms")).get("join")).values():
        _complete(mapping(mapping(room).get("timeline")).get("events"))


def _repair_messages(body: dict[str, Any]) -> None:
    _complete(body.get("chunk"))


def _repair_event(body: dict[str, Any]) -> None:
    _complete([body])


def _complete(events: object) -> None:
    """Give encrypted events the fields that nio's schema still wants; nothing trusts them."""
    for event in events if isinstance(events, list) else ():
        content = mapping(mapping(event).get("content"))
        if text(mapping(event), "type") == "m.room.encrypted" and (
            content.get("algorithm") == _MEGOLM
        ):
            cast("dict[str, Any]", content).setdefault("sender_key", "")
            cast("dict[str, Any]", content).setdefault("device_id", "")


def _repair_query(body: dict[str, Any]) -> None:
    _leave_out(body, "device_keys", _is_device)


def _repair_claim(body: dict[str, Any]) -> None:
    _leave_out(body, "one_time_keys", lambda key: isinstance(key, dict) and bool(key))


def _is_device(keys: object) -> bool:
    """Tell whether the device has the shape that nio wants of it (spec: DeviceKeys)."""
    device = mapping(keys)
    algorithms = device.get("algorithms")
    signatures = mapping(device.get("signatures", {}))
    return (
        isinstance(algorithms, list)
        and all(isinstance(device.get(key), str) for key in ("user_id", "device_id"))
        and all(_are_texts(one) for one in (algorithms, device.get("keys"), *signatures.values()))
    )


def _are_texts(values: object) -> bool:
    if isinstance(values, dict):
        return all(isinstance(one, str) for one in values.values())
    return isinstance(values, list) and all(isinstance(one, str) for one in values)


def _leave_out(body: dict[str, Any], section: str, sound: Callable[[object], bool]) -> None:
    """Drop each device of the section that is not sound."""
    for user_id, device_id, devices in _devices(body.get(section)):
        if not sound(devices[device_id]):
            del devices[device_id]
            log.warning("device malformed", user_id=user_id, device_id=device_id, section=section)


def _devices(section: object) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for user_id, devices in mapping(section).items():
        if isinstance(devices, dict):
            for device_id in list(devices):
                yield user_id, device_id, devices


_REPAIRS: dict[type[nio.Response], Callable[[dict[str, Any]], None]] = {
    nio.SyncResponse: _repair_sync,
    nio.RoomMessagesResponse: _repair_messages,
    nio.RoomGetEventResponse: _repair_event,
    nio.KeysQueryResponse: _repair_query,
    nio.KeysClaimResponse: _repair_claim,
}
