"""`!sondage` and `!annonce` in the admin room: create, launch, close, show campaigns."""

import re
from collections.abc import Awaitable, Callable

from bot.campaigns.definition import Fault, Malformed
from bot.campaigns.results_text import (
    chart,
    chart_description,
    progress_line,
    question_results,
    state_in_words,
)
from bot.commands.registry import CommandContext, command
from bot.core.campaigns import Campaign, CampaignQuestion, CampaignResults
from bot.core.outgoing import Attachment
from bot.i18n.texts import Texts
from bot.reporting.charts import PICTURE_SIZE, png

_TYPED = re.compile(r"\s*(\S+)\s*(.*)", re.DOTALL)
_FENCE = re.compile(r"\A```[a-z]*\n(.*)\n```\Z", re.DOTALL)
_FAULTS = {  # sentence by kind of fault; all other kinds have one common sentence
    "missing": "campaign fault missing",
    "extra_forbidden": "campaign fault unknown",
    "string_pattern_mismatch": "campaign fault name",
    "literal_error": "campaign fault word",
    "answers": "campaign fault answers",
    "answers_twice": "campaign fault answers twice",
    "timezone": "campaign fault timezone",
    "nothing": "campaign fault nothing",
    "ends": "campaign fault ends",
    "latest": "campaign fault latest",
    "clock": "campaign fault clock",
    "characters": "campaign fault characters",
    "twice": "campaign fault twice",
    "unreadable": "campaign fault unreadable",
    "yaml": "campaign fault yaml",
    "model_type": "campaign fault yaml",
    "too_long": "campaign fault too long",
    "string_too_long": "campaign fault too long",
    "too_short": "campaign fault too short",
}


@command("sondage", "survey", "annonce", "announcement", admin=True)
async def campaign(context: CommandContext) -> str | None:
    """Run the action that the first word names; without one, list the campaigns."""
    typed = _TYPED.match(context.argument)
    action = _ACTIONS.get(typed[1].lower()) if typed else None
    return await action(context, typed[2].rstrip()) if typed and action else await _list(context)


async def _create(context: CommandContext, definition: str) -> str:
    fenced = _FENCE.match(definition)
    try:
        draft = await context.campaigns.draft(fenced[1] if fenced else definition)
    except Malformed as error:
        faults = "\n".join(_fault(context.texts, one) for one in error.faults)
        return context.texts("campaign malformed", faults=faults)
    if draft is None:
        return context.texts("campaign name taken")
    return await _summary(context, draft)


def _fault(texts: Texts, fault: Fault) -> str:
    line, field, kind = fault
    reason = texts(_FAULTS.get(kind, "campaign fault value"))
    if field:
        return texts("campaign fault", line=line, field=field, reason=reason)
    if line:
        return texts("campaign fault line", line=line, reason=reason)
    return texts("campaign fault nowhere", reason=reason)  # the fault concerns the whole text


async def _summary(context: CommandContext, one: Campaign) -> str:
    rooms = await context.campaigns.reach(one)
    key = "campaign made" if rooms else "campaign for nobody"
    words = {
        "rooms": context.texts("rooms", n=rooms),
        "questions": context.texts("questions", n=len(one.questions)),
    }
    return context.texts(key, name=one.name, **words)


async def _preview(context: CommandContext, name: str) -> str:
    found = await context.campaigns.find(name)
    if found is None:
        return context.texts("campaign unknown", name=name[:40])
    await context.campaigns.preview(found, context.prompt.room_id, context.prompt.event_id)
    return await _summary(context, found)


async def _launch(context: CommandContext, name: str) -> str:
    found = await context.campaigns.find(name)
    if found is None:
        return context.texts("campaign unknown", name=name[:40])
    if found.ends_at is not None and found.ends_at <= context.clock.now():
        return context.texts("campaign past", name=name)
    rooms = await context.campaigns.launch(found)
    if rooms is None:
        return context.texts("campaign not a draft", name=name)
    if rooms == 0:
        return context.texts("campaign for nobody", name=name)
    return context.texts("campaign launched", name=name, rooms=context.texts("rooms", n=rooms))


async def _close(context: CommandContext, name: str) -> str:
    closed = await context.campaigns.close(name)
    return context.texts("campaign ends" if closed else "campaign not running", name=name[:40])


async def _state(context: CommandContext, name: str) -> str:
    progress = await context.campaigns.results(name) if name else None
    if progress is None:
        return await _list(context)
    found = await context.campaigns.find(name)
    return progress_line(context.texts, name, progress, found)


async def _results(context: CommandContext, name: str) -> str:
    found = await context.campaigns.find(name)
    progress = await context.campaigns.results(name)
    if found is None or progress is None:
        return context.texts("campaign unknown", name=name[:40])
    for one in found.questions:
        await _show(context, one, progress)
    return progress_line(context.texts, name, progress, found)


async def _show(
    context: CommandContext, question: CampaignQuestion, progress: CampaignResults
) -> None:
    """Send the answers to a question as text, then as a chart if there are votes."""
    await context.say(question_results(context.texts, question, progress), question.key)
    figure = chart(context.texts, question, progress)
    if figure is None:
        return
    name = f"question-{question.key}.png"
    alternative = chart_description(context.texts, question, progress)
    picture = Attachment(
        name=name,
        mimetype="image/png",
        data=await png(figure),
        alternative=alternative,
        size=PICTURE_SIZE,
    )
    await context.attach(picture, question.key)


async def _list(context: CommandContext) -> str:
    names = await context.campaigns.names()
    items = [
        context.texts("campaign item", name=name, state=state_in_words(context.texts, state))
        for name, state in names[:20]
    ]
    return "\n".join(
        [context.texts("campaign how"), "", *(items or [context.texts("no campaigns")])]
    )


_ACTIONS: dict[str, Callable[[CommandContext, str], Awaitable[str]]] = {
    **dict.fromkeys(("creer", "créer", "create"), _create),
    **dict.fromkeys(("apercu", "aperçu", "preview"), _preview),
    **dict.fromkeys(("lancer", "launch"), _launch),
    **dict.fromkeys(("etat", "état", "state"), _state),
    **dict.fromkeys(("cloturer", "clôturer", "close"), _close),
    **dict.fromkeys(("resultats", "résultats", "results"), _results),
}
