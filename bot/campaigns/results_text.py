"""What a campaign has come to so far, in words and as charts."""

from collections.abc import Mapping
from typing import Final

from bot.core.campaigns import Campaign, CampaignQuestion, CampaignResults, offered, share
from bot.i18n.texts import Texts
from bot.reporting.charts import Chart, Series, letters_below

_STATES: Final = {
    "draft": "campaign draft",
    "running": "campaign running",
    "closing": "campaign closing",
    "closed": "campaign closed",
}
_LONGEST_TITLE: Final = 80
_OFTEN: Final = 3  # answers that the alternative text names


def state_in_words(texts: Texts, name: str) -> str:
    """Return the word for a campaign's state."""
    return texts(_STATES[name])


def progress_line(
    texts: Texts, name: str, progress: CampaignResults, campaign: Campaign | None
) -> str:
    """Return how far the campaign of that name has come; None where it cannot be read."""
    rate = progress.answered / progress.reached if progress.reached else 0.0
    asks = campaign is None or campaign.questions
    return texts(
        "campaign progress" if asks else "announcement progress",
        name=name,
        state=state_in_words(texts, progress.state),
        rooms=texts("rooms", n=progress.rooms),
        reached=progress.reached,
        declined=progress.declined,
        answered=progress.answered,
        rate=round(100 * rate),
    )


def of_question(texts: Texts, one: CampaignQuestion, progress: CampaignResults) -> str:
    """Return how often each answer was chosen, and how many people have written something."""
    lines = [f"**{one.text}**", ""]
    numbers = _are_numbered(one)
    words = {
        answer.id: f"{number} – {answer.text}" if numbers else answer.text  # a dash
        for number, answer in enumerate(offered(one), 1)
    }
    lines += [
        texts("campaign answer", answer=words[key], n=count, part=round(100 * part))
        for key, count, part in share(_counts(one, progress))
    ]
    written = progress.texts.get(one.key, 0)
    if written or one.kind == "text":
        lines.append(texts("campaign texts", n=written))
    return "\n".join(lines)


def of_poll(texts: Texts, one: CampaignQuestion | None, counts: Mapping[str, int]) -> str:
    """Return what a poll that ends has come to; of no known question, that it is over."""
    chosen = [
        texts("poll result", answer=answer.text, n=counts[answer.id])
        for answer in (offered(one) if one else ())
        if counts.get(answer.id)
    ]
    over = texts("campaign over")
    return f"{over} {' · '.join(chosen)}" if chosen else over


def chart(texts: Texts, one: CampaignQuestion, progress: CampaignResults) -> Chart | None:
    """Return the answers to a question as bars; None where there is none to be counted.

    Where the answers' words have no room below the bars, their numbers stand there.
    """
    counts = _counts(one, progress)
    if not any(counts.values()):
        return None
    each, numbers = letters_below(len(counts)), _are_numbered(one)
    labels = tuple(
        str(number) if numbers else _short(answer.text, each)
        for number, answer in enumerate(offered(one), 1)
    )
    bars = Series(texts("campaign votes"), tuple(map(float, counts.values())))
    title = _short(one.text, _LONGEST_TITLE)
    return Chart("bar", title, labels, (bars,), language=texts.language)


def chart_shown(texts: Texts, one: CampaignQuestion, progress: CampaignResults) -> str:
    """Return the alternative text of that chart's picture: what it shows, and its longest bars."""
    counts = _counts(one, progress)
    often = sorted(offered(one), key=lambda answer: -counts[answer.id])[:_OFTEN]
    longest = [
        texts("poll result", answer=answer.text, n=counts[answer.id])
        for answer in often
        if counts[answer.id]
    ]
    return texts("campaign picture", question=one.text, answers=" · ".join(longest))


def _are_numbered(one: CampaignQuestion) -> bool:
    """Tell whether the answers' words have no room below the bars."""
    answers = offered(one)
    each = letters_below(len(answers)) if answers else 0
    return each < max((len(answer.text) for answer in answers), default=0)


def _counts(one: CampaignQuestion, progress: CampaignResults) -> dict[str, int]:
    """Return how often each answer that the question offers was chosen, in its order."""
    found = progress.answers.get(one.key, {})
    return {answer.id: found.get(answer.id, 0) for answer in offered(one)}


def _short(words: str, longest: int) -> str:
    return words if len(words) <= longest else f"{words[: longest - 1].rstrip()}…"
