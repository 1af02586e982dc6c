"""`!stats`: show the feedback of the last 30 days as text and as a chart."""

from datetime import UTC, datetime

from bot.commands.registry import CommandContext, command
from bot.core.outgoing import Attachment
from bot.core.statistics import FigureFilter
from bot.reporting.charts import PICTURE_SIZE, png
from bot.reporting.reports import CHARTS, in_words, report, satisfaction_shown

_DAYS = 30


@command("stats", "statistics", admin=True)
async def show_statistics(context: CommandContext) -> None:
    """Send the figures as text first, so that they are there even if the chart fails."""
    today = datetime.fromtimestamp(context.clock.now(), UTC).date()
    about = await report(context.statistics, today, _DAYS, FigureFilter())
    await context.say(in_words(about, context.texts), "statistics")
    drawn = await png(CHARTS["satisfaction"](about.series, about.step, context.texts))
    alternative = satisfaction_shown(about, context.texts)
    await context.attach(
        Attachment(
            name="satisfaction.png",
            mimetype="image/png",
            data=drawn,
            alternative=alternative,
            size=PICTURE_SIZE,
        )
    )
