"""The tables of the ledger that can be exported as files."""

from collections.abc import Mapping

from bot.core.export_format import ExportName
from bot.ports.statistics import Export
from bot.storage.campaign_answers import ANSWER_COLUMNS
from bot.storage.campaigns import SqlCampaigns
from bot.storage.comments import COMMENT_COLUMNS, RATING_COLUMNS, SHARED_COLUMNS
from bot.storage.feedback import SqlFeedback


def exports(opinions: SqlFeedback, campaigns: SqlCampaigns) -> Mapping[ExportName, Export]:
    """Return every table that can be exported."""
    return {
        "ratings": Export(RATING_COLUMNS, opinions.ratings),
        "comments": Export(COMMENT_COLUMNS, opinions.comments),
        "answers": Export(ANSWER_COLUMNS, campaigns.answers),
        "shared": Export(SHARED_COLUMNS, opinions.shared),
    }
