"""One event through the Matrix port: prepared, then put."""

from bot.core.events import EventId, RoomId
from bot.core.outgoing import Outgoing
from bot.ports.matrix import Matrix


async def send(
    matrix: Matrix, room_id: RoomId, outgoing: Outgoing, transaction_id: str
) -> EventId:
    """Prepare and send an event."""
    return await matrix.put(room_id, await matrix.prepare(room_id, outgoing), transaction_id)
