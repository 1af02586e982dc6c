"""`!stats`: what people think of the replies of the last 30 days, as a picture and in words."""

from datetime import UTC, datetime

from bot.charts import PICTURE_SIZE
from bot.commands.registry import Call, command
from bot.core.replies import Picture, transaction_id
from bot.failpoints import armed
from bot.insist import insist
from bot.reports import picture


@command("stats", "statistics", admin=True)
async def show_statistics(call: Call) -> None:
    """Send the picture, whose caption says the same."""
    desk, prompt = call.desk, call.prompt
    today = datetime.fromtimestamp(desk.clock.now(), UTC).date()
    drawn, said = await picture(desk.statistics, today)
    shown = Picture("satisfaction.png", drawn, *PICTURE_SIZE, said)
    device_id, room_id = desk.matrix.device_id, prompt.room_id
    transaction = transaction_id(device_id, prompt.event_id, "picture", part=0, claim=0)

    async def send() -> None:
        with armed.around("picture"):
            await desk.matrix.send(room_id, shown, transaction)

    await insist(desk.clock, send)
