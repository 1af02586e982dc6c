"""`!refaire`: answer a prompt again, in the same reply."""

from bot.commands.registry import CommandContext, command


@command("refaire", "redo")
async def redo(context: CommandContext) -> str | None:
    """Answer again the prompt of the replied-to message, else the conversation's last prompt."""
    prompt, changes = context.prompt, context.prompt_changes
    target = prompt.messages[0].replies_to or await changes.last(prompt)
    key = "nothing to redo" if target is None else await changes.redo(prompt.messages[0], target)
    return None if key is None else context.texts(key)
