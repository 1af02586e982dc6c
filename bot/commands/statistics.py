"""`!stats`: what people think of the replies of the last 30 days, as a picture and in words."""

from datetime import UTC, datetime

from bot.charts import PICTURE_SIZE
from bot.commands.registry import Call, command
from bot.core.replies import Picture, transaction_id
from bot.insist import post
from bot.reports import picture


@command("stats", "statistics", admin=True)
async def show_statistics(call: Call) -> None:
    """Send the picture, whose caption says the same."""
    desk, prompt = call.desk, call.prompt
    today = datetime.fromtimestamp(desk.clock.now(), UTC).date()
    drawn, said = await picture(desk.statistics, today)
    shown = Picture("satisfaction.png", drawn, *PICTURE_SIZE, said)
    device_id = desk.matrix.device_id
    transaction = transaction_id(device_id, prompt.event_id, "picture", part=0, claim=0)
    await post(desk, prompt.room_id, shown, transaction, name="picture")
