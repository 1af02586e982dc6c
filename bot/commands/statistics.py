"""`!stats`: what people think of the replies of the last 30 days, in words and as a picture."""

from datetime import UTC, datetime

from bot.commands.registry import CommandContext, command
from bot.core.outgoing import Attachment
from bot.core.statistics import FigureFilter
from bot.reporting.charts import PICTURE_SIZE, png
from bot.reporting.reports import CHARTS, in_words, report, satisfaction_shown

_DAYS = 30


@command("stats", "statistics", admin=True)
async def show_statistics(context: CommandContext) -> None:
    """Say the figures, then show them: they stand there even where the picture fails."""
    today = datetime.fromtimestamp(context.clock.now(), UTC).date()
    about = await report(context.statistics, today, _DAYS, FigureFilter())
    await context.say(in_words(about, context.texts), "statistics")
    drawn = await png(CHARTS["satisfaction"](about.series, about.step, context.texts))
    alternative = satisfaction_shown(about, context.texts)
    await context.attach(
        Attachment("satisfaction.png", "image/png", drawn, alternative, size=PICTURE_SIZE)
    )
