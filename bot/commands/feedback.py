"""`!avis`: rate or comment on a reply, or share it. `!sondages`: switch polls on or off."""

from bot.commands.registry import CommandContext, command
from bot.core.feedback import COMMAND, LONGEST_COMMENT, SHARE, rating_in

_YES_OR_NO = {"oui": True, "yes": True, "on": True, "non": False, "no": False, "off": False}
_CONFIRMATIONS = {  # sentence by whether polls are wanted, and whether in a direct message
    (True, True): "polls on here",
    (True, False): "polls on in salon",
    (False, True): "polls off here",
    (False, False): "polls off in salon",
}


@command(*COMMAND)
async def comment(context: CommandContext) -> str:
    """Store a rating if the text is one of the rating words; else store it as a comment."""
    feedback, message = context.feedback, context.prompt.messages[0]
    argument = context.argument.strip()
    if not argument:
        return context.texts("feedback how")
    if len(argument) > LONGEST_COMMENT:
        return context.texts("feedback too long", n=LONGEST_COMMENT)
    first, _, rest = argument.lower().partition(" ")
    if first in SHARE:
        return await _share(context, sure=_YES_OR_NO.get(rest.strip(), False))
    about = await feedback.find_subject(context.prompt)
    rating = rating_in(argument)
    if rating is None:
        await feedback.store_comment(context.message_with(argument), about)
        return context.texts("feedback kept")
    if about is None or not await feedback.rate(message, about, rating):
        return context.texts("nothing to rate")
    return context.texts("thanks")


async def _share(context: CommandContext, *, sure: bool) -> str:
    """Share a prompt and its reply with the team; `sure` confirms a first command.

    If the command replies to no message, the last prompt of the conversation is meant. If that
    has no reply, nothing is shared: an earlier prompt is not meant.
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
    wanted = _YES_OR_NO.get(context.argument.strip().lower())
    if wanted is None:
        return context.texts("polls how")
    direct = context.matrix.room(context.prompt.room_id).direct
    if not direct and not context.is_moderator:
        return context.texts("moderators only")
    scope = context.sender if direct else context.prompt.room_id
    await context.feedback.want_polls(scope, wanted=wanted)
    return context.texts(_CONFIRMATIONS[wanted, direct])
