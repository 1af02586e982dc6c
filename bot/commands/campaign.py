"""`!sondage` and `!annonce`: campaigns, from their draft to their results; in the admin room."""

import re
from collections.abc import Awaitable, Callable

from bot.campaigns.definition import Fault, Malformed
from bot.campaigns.results_text import (
    chart,
    chart_shown,
    of_question,
    progress_line,
    state_in_words,
)
from bot.commands.registry import Call, command
from bot.core.campaigns import Campaign, CampaignQuestion, CampaignResults
from bot.core.outgoing import Attachment
from bot.i18n.texts import Texts
from bot.reporting.charts import PICTURE_SIZE, png

_TYPED = re.compile(r"\s*(\S+)\s*(.*)", re.DOTALL)
_FENCE = re.compile(r"\A```[a-z]*\n(.*)\n```\Z", re.DOTALL)
_FAULTS = {  # of pydantic's kinds, the sentence that says what is wrong; any other says so
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
async def campaign(call: Call) -> str | None:
    """Do what the first word asks for: create, preview, launch, look, close, tell results."""
    typed = _TYPED.match(call.argument)
    deed = _DEEDS.get(typed[1].lower()) if typed else None
    return await deed(call, typed[2].rstrip()) if typed and deed else await _list(call)


async def _create(call: Call, definition: str) -> str:
    fenced = _FENCE.match(definition)
    try:
        made = await call.desk.campaigns.draft(fenced[1] if fenced else definition)
    except Malformed as error:
        faults = "\n".join(_fault(call.texts, one) for one in error.faults)
        return call.texts("campaign malformed", faults=faults)
    if made is None:
        return call.texts("campaign name taken")
    return await _summary(call, made)


def _fault(texts: Texts, fault: Fault) -> str:
    line, field, kind = fault
    reason = texts(_FAULTS.get(kind, "campaign fault value"))
    if field:
        return texts("campaign fault", line=line, field=field, reason=reason)
    if line:
        return texts("campaign fault line", line=line, reason=reason)
    return texts("campaign fault nowhere", reason=reason)  # it is about the whole text


async def _summary(call: Call, one: Campaign) -> str:
    rooms = await call.desk.campaigns.reach(one)
    key = "campaign made" if rooms else "campaign for nobody"
    words = {
        "rooms": call.texts("rooms", n=rooms),
        "questions": call.texts("questions", n=len(one.questions)),
    }
    return call.texts(key, name=one.name, **words)


async def _preview(call: Call, name: str) -> str:
    found = await call.desk.campaigns.find(name)
    if found is None:
        return call.texts("campaign unknown", name=name[:40])
    await call.desk.campaigns.preview(found, call.prompt.room_id, call.prompt.event_id)
    return await _summary(call, found)


async def _launch(call: Call, name: str) -> str:
    found = await call.desk.campaigns.find(name)
    if found is None:
        return call.texts("campaign unknown", name=name[:40])
    if found.ends_at is not None and found.ends_at <= call.desk.clock.now():
        return call.texts("campaign past", name=name)
    rooms = await call.desk.campaigns.launch(found)
    if rooms is None:
        return call.texts("campaign not a draft", name=name)
    if rooms == 0:
        return call.texts("campaign for nobody", name=name)
    return call.texts("campaign launched", name=name, rooms=call.texts("rooms", n=rooms))


async def _close(call: Call, name: str) -> str:
    closed = await call.desk.campaigns.close(name)
    return call.texts("campaign ends" if closed else "campaign not running", name=name[:40])


async def _state(call: Call, name: str) -> str:
    progress = await call.desk.campaigns.progress(name) if name else None
    if progress is None:
        return await _list(call)
    found = await call.desk.campaigns.find(name)
    return progress_line(call.texts, name, progress, found)


async def _results(call: Call, name: str) -> str:
    found = await call.desk.campaigns.find(name)
    progress = await call.desk.campaigns.progress(name)
    if found is None or progress is None:
        return call.texts("campaign unknown", name=name[:40])
    for one in found.questions:
        await _show(call, one, progress)
    return progress_line(call.texts, name, progress, found)


async def _show(call: Call, question: CampaignQuestion, progress: CampaignResults) -> None:
    """Say what was answered to a question, then show it where there is anything to count."""
    await call.say(of_question(call.texts, question, progress), question.key)
    drawn = chart(call.texts, question, progress)
    if drawn is None:
        return
    name = f"question-{question.key}.png"
    alternative = chart_shown(call.texts, question, progress)
    picture = Attachment(name, "image/png", await png(drawn), alternative, PICTURE_SIZE)
    await call.attach(picture, question.key)


async def _list(call: Call) -> str:
    names = await call.desk.campaigns.names()
    items = [
        call.texts("campaign item", name=name, state=state_in_words(call.texts, state))
        for name, state in names[:20]
    ]
    return "\n".join([call.texts("campaign how"), "", *(items or [call.texts("no campaigns")])])


_DEEDS: dict[str, Callable[[Call, str], Awaitable[str]]] = {
    **dict.fromkeys(("creer", "créer", "create"), _create),
    **dict.fromkeys(("apercu", "aperçu", "preview"), _preview),
    **dict.fromkeys(("lancer", "launch"), _launch),
    **dict.fromkeys(("etat", "état", "state"), _state),
    **dict.fromkeys(("cloturer", "clôturer", "close"), _close),
    **dict.fromkeys(("resultats", "résultats", "results"), _results),
}
