"""`!avis`: what one thinks of the last reply, in a word or in many. `!sondages`: no more polls."""

from bot.commands.registry import Call, command
from bot.core.feedback import COMMAND, LONGEST_COMMENT, SHARE, rating_in

_WANTED = {"oui": True, "yes": True, "on": True, "non": False, "no": False, "off": False}
_NOTED = {  # by what is wanted, and whether that is for a direct message
    (True, True): "polls on here",
    (True, False): "polls on in salon",
    (False, True): "polls off here",
    (False, False): "polls off in salon",
}


@command(*COMMAND)
async def comment(call: Call) -> str:
    """Rate the reply by one of the words that a poll has, or keep what is said of it."""
    feedback, said = call.desk.feedback, call.prompt.messages[0]
    argument = call.argument.strip()
    if not argument:
        return call.texts("feedback how")
    if len(argument) > LONGEST_COMMENT:
        return call.texts("feedback too long", n=LONGEST_COMMENT)
    first, _, rest = argument.lower().partition(" ")
    if first in SHARE:
        return await _share(call, sure=_WANTED.get(rest.strip(), False))
    about = await feedback.meant(call.prompt)
    rating = rating_in(argument)
    if rating is None:
        await feedback.keep(call.said(argument), about)
        return call.texts("feedback kept")
    if about is None or not await feedback.rate(said, about, rating):
        return call.texts("nothing to rate")
    return call.texts("thanks")


async def _share(call: Call, *, sure: bool) -> str:
    """Hand the exchange over to the team once the person has said so twice.

    Without a reply that it is about, it is the last one of the conversation. Where the last prompt
    has got no answer, the one before is not meant.
    """
    desk, prompt = call.desk, call.prompt
    quotes = prompt.messages[0].replies_to is not None
    about = await (desk.feedback.meant(prompt) if quotes else desk.changes.last(prompt))
    return call.texts(await desk.feedback.share(prompt.messages[0], about, sure=sure))


@command("sondages", "surveys")
async def want_polls(call: Call) -> str:
    """Switch polls on or off: for oneself in a direct message, for all in a salon."""
    wanted = _WANTED.get(call.argument.strip().lower())
    if wanted is None:
        return call.texts("polls how")
    direct = call.desk.matrix.room(call.prompt.room_id).direct
    if not direct and not call.moderates:
        return call.texts("moderators only")
    whose = call.sender if direct else call.prompt.room_id
    await call.desk.feedback.want_polls(whose, wanted=wanted)
    return call.texts(_NOTED[wanted, direct])
