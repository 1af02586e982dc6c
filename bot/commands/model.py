"""`!modele`: list the models, or choose one for the conversation."""

from bot.commands.registry import CommandContext, command
from bot.ports.ledger import Choices

_LONGEST = 100  # characters of a name


@command("modele", "model", "modèle")
async def choose_model(context: CommandContext) -> str:
    """Store the model that the argument names; without one, return the list of models."""
    catalogue, texts, name = context.catalogue, context.texts, context.argument.strip()[:_LONGEST]
    cards = list(catalogue)
    if len(cards) == 1 and not name:
        return texts("one model", label=cards[0].label)
    if not name:
        items = [
            texts(
                "model item chosen" if card is context.card else "model item",
                number=number,
                label=card.label,
                key=card.key,
            )
            for number, card in enumerate(cards, 1)
        ]
        return "\n".join([texts("models"), "", *items])
    card = catalogue.find(name)
    if card is None:
        nearest = ", ".join(f"`!modele {one.key}`" for one in catalogue.nearest(name) or cards)
        return texts("model not known", name=name, nearest=nearest)
    if not context.may_choose:
        return texts("moderators only")
    await context.store.choose(context.scope, Choices(model=card.id))
    return texts("model chosen", label=card.label)
