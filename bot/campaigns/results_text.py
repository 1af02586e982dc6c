"""The results of a campaign so far, as text and as charts."""

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
_MOST_FREQUENT: Final = 3  # number of answers that the alternative text names


def state_in_words(texts: Texts, name: str) -> str:
    """Return the word for a campaign's state."""
    return texts(_STATES[name])


def progress_line(
    texts: Texts, name: str, progress: CampaignResults, campaign: Campaign | None
) -> str:
    """Return the line about a campaign's progress; `campaign` is None if it cannot be read."""
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


def question_results(texts: Texts, one: CampaignQuestion, progress: CampaignResults) -> str:
    """Return how often each answer was chosen, and how many people have written a text."""
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


def poll_results(texts: Texts, one: CampaignQuestion | None, counts: Mapping[str, int]) -> str:
    """Return the text that ends a poll: it is over, and the votes if the question is known."""
    chosen = [
        texts("poll result", answer=answer.text, n=counts[answer.id])
        for answer in (offered(one) if one else ())
        if counts.get(answer.id)
    ]
    over = texts("campaign over")
    return f"{over} {' · '.join(chosen)}" if chosen else over


def chart(texts: Texts, one: CampaignQuestion, progress: CampaignResults) -> Chart | None:
    """Return a bar chart of the answers to a question; None if there are no votes.

    If the answers are too long to be labels of the bars, their numbers are the labels.
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
    return Chart(kind="bar", title=title, labels=labels, series=(bars,), language=texts.language)


def chart_description(texts: Texts, one: CampaignQuestion, progress: CampaignResults) -> str:
    """Return the alternative text of the chart: the question, and the most frequent answers."""
    counts = _counts(one, progress)
    frequent = sorted(offered(one), key=lambda answer: -counts[answer.id])[:_MOST_FREQUENT]
    longest = [
        texts("poll result", answer=answer.text, n=counts[answer.id])
        for answer in frequent
        if counts[answer.id]
    ]
    return texts("campaign picture", question=one.text, answers=" · ".join(longest))


def _are_numbered(one: CampaignQuestion) -> bool:
    """Return whether the answers are too long to be labels of the bars."""
    answers = offered(one)
    each = letters_below(len(answers)) if answers else 0
    return each < max((len(answer.text) for answer in answers), default=0)


def _counts(one: CampaignQuestion, progress: CampaignResults) -> dict[str, int]:
    """Return how often each offered answer was chosen, in the order of the question."""
    found = progress.answers.get(one.key, {})
    return {answer.id: found.get(answer.id, 0) for answer in offered(one)}


def _short(words: str, longest: int) -> str:
    return words if len(words) <= longest else f"{words[: longest - 1].rstrip()}…"
