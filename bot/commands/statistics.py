"""`!stats`: what people think of the replies of the last 30 days, as a picture and in words."""

from datetime import UTC, datetime

from bot.charts import PICTURE_SIZE
from bot.commands.registry import Call, command
from bot.core.replies import Attachment
from bot.reports import picture


@command("stats", "statistics", admin=True)
async def show_statistics(call: Call) -> None:
    """Send the picture, whose caption says the same."""
    today = datetime.fromtimestamp(call.desk.clock.now(), UTC).date()
    drawn, said = await picture(call.desk.statistics, today)
    await call.attach(Attachment("satisfaction.png", "image/png", drawn, said, PICTURE_SIZE))
