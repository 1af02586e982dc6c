"""`!avis`: what one thinks of the last reply, in a word or in many. `!sondages`: no more polls."""

from bot.commands.registry import CommandContext, command
from bot.core.feedback import COMMAND, LONGEST_COMMENT, SHARE, rating_in

_WANTED = {"oui": True, "yes": True, "on": True, "non": False, "no": False, "off": False}
_NOTED = {  # by what is wanted, and whether that is for a direct message
    (True, True): "polls on here",
    (True, False): "polls on in salon",
    (False, True): "polls off here",
    (False, False): "polls off in salon",
}


@command(*COMMAND)
async def comment(context: CommandContext) -> str:
    """Rate the reply by one of the words that a poll has, or keep what is said of it."""
    feedback, said = context.feedback, context.prompt.messages[0]
    argument = context.argument.strip()
    if not argument:
        return context.texts("feedback how")
    if len(argument) > LONGEST_COMMENT:
        return context.texts("feedback too long", n=LONGEST_COMMENT)
    first, _, rest = argument.lower().partition(" ")
    if first in SHARE:
        return await _share(context, sure=_WANTED.get(rest.strip(), False))
    about = await feedback.find_subject(context.prompt)
    rating = rating_in(argument)
    if rating is None:
        await feedback.store_comment(context.said(argument), about)
        return context.texts("feedback kept")
    if about is None or not await feedback.rate(said, about, rating):
        return context.texts("nothing to rate")
    return context.texts("thanks")


async def _share(context: CommandContext, *, sure: bool) -> str:
    """Hand the exchange over to the team once the person has said so twice.

    Without a reply that it is about, it is the last one of the conversation. Where the last prompt
    has got no answer, the one before is not meant.
    """
    prompt = context.prompt
    quotes = prompt.messages[0].replies_to is not None
    about = await (
        context.feedback.find_subject(prompt) if quotes else context.prompt_changes.last(prompt)
    )
    return context.texts(await context.feedback.share(prompt.messages[0], about, sure=sure))


@command("sondages", "surveys")
async def want_polls(context: CommandContext) -> str:
    """Switch polls on or off: for oneself in a direct message, for all in a salon."""
    wanted = _WANTED.get(context.argument.strip().lower())
    if wanted is None:
        return context.texts("polls how")
    direct = context.matrix.room(context.prompt.room_id).direct
    if not direct and not context.moderates:
        return context.texts("moderators only")
    whose = context.sender if direct else context.prompt.room_id
    await context.feedback.want_polls(whose, wanted=wanted)
    return context.texts(_NOTED[wanted, direct])
