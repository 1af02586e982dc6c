"""`!modele`: list the models, or choose one for the conversation."""

from bot.commands.registry import Call, command
from bot.ports.ledger import Choices

_LONGEST = 100  # characters of a name


@command("modele", "model", "modèle")
async def choose_model(call: Call) -> str:
    """Return the models to choose among, or that one is chosen."""
    catalogue, texts, name = call.desk.catalogue, call.texts, call.argument.strip()[:_LONGEST]
    cards = list(catalogue)
    if len(cards) == 1 and not name:
        return texts("one model", label=cards[0].label)
    if not name:
        items = [
            texts(
                "model item chosen" if card is call.card else "model item",
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
    if not call.may_choose:
        return texts("moderators only")
    await call.desk.store.choose(call.place, Choices(model=card.id))
    return texts("model chosen", label=card.label)
