"""Commands by their names, and what each is given."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from bot.campaigns.sender import Campaigns
from bot.core.events import Conversation, Message, Prompt, UserId
from bot.core.export_format import What
from bot.core.model_catalog import Catalogue, ModelCard
from bot.core.outgoing import Attachment, Notice, transaction_id
from bot.dispatch.prompt_changes import PromptChanges
from bot.feedback.collector import FeedbackCollector
from bot.i18n.texts import Language, Texts
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.ports.statistics import Export, Statistics
from bot.replies.generations import ActiveGenerations
from bot.runtime.retry import post

UPLOADING = 600.0  # seconds for which a file is tried: each try uploads everything anew

_MODERATOR = 50  # power level (spec: m.room.power_levels, as clients name it)
_NEAR = 0.5  # of difflib's ratio
_MOST = 3
_LONGEST = 40  # characters of a name that is no command


@dataclass(frozen=True, slots=True)
class About:
    """What is said of the service; None for what is not configured."""

    version: str
    status_page: str | None = None
    contact: str | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """What commands work with.

    Attributes:
        exporting: held while a file is in memory: there is one at a time.
    """

    matrix: Matrix
    store: Store
    answers: ActiveGenerations
    changes: PromptChanges
    feedback: FeedbackCollector
    campaigns: Campaigns
    statistics: Statistics
    exports: Mapping[What, Export]
    catalogue: Catalogue
    about: About
    clock: Clock
    admins: frozenset[UserId] = frozenset()
    exporting: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)


@dataclass(frozen=True, slots=True)
class Call:
    """One command as it was typed.

    Attributes:
        argument: what stands behind its name.
        card: the model that answers in the conversation.
        texts: in the conversation's language.
    """

    prompt: Prompt
    argument: str
    card: ModelCard
    texts: Texts
    desk: Desk

    @property
    def sender(self) -> UserId:
        """Who has typed it."""
        return self.prompt.sender

    @property
    def place(self) -> Conversation:
        """What a choice made here holds for: the thread, or all of the room."""
        return Conversation(self.prompt.room_id, self.prompt.messages[0].thread_root)

    @property
    def may_choose(self) -> bool:
        """Tell whether the person may choose here: for all of a salon, its moderators only."""
        if self.place.thread_root is not None or self.desk.matrix.room(self.prompt.room_id).direct:
            return True
        return self.moderates

    @property
    def moderates(self) -> bool:
        """Tell whether the person is a moderator of the room."""
        return self.desk.matrix.power_level(self.prompt.room_id, self.sender) >= _MODERATOR

    @property
    def administers(self) -> bool:
        """Tell whether it was typed in the admin room, by one of the admins."""
        here = self.desk.matrix.room(self.prompt.room_id).admin
        return here and self.sender in self.desk.admins

    async def attach(self, one: Attachment, stage: str = "") -> None:
        """Send a file to where the command was typed, once.

        Args:
            one: which.
            stage: tells it from others that the same command sends.

        Raises:
            TooLarge: the homeserver takes no file of its size.
            MatrixError: it cannot be sent.
        """
        desk, prompt = self.desk, self.prompt
        shown = replace(one, to=prompt)
        name = f"attachment {stage}"
        transaction = transaction_id(desk.matrix.device_id, prompt.event_id, name, part=0, claim=0)
        await post(desk, prompt.room_id, shown, transaction, name="attachment", within=UPLOADING)

    async def say(self, words: str, stage: str) -> None:
        """Say something before the command's last word, once; `stage` tells it from the rest."""
        desk, prompt = self.desk, self.prompt
        device_id = desk.matrix.device_id
        transaction = transaction_id(
            device_id, prompt.event_id, f"notice {stage}", part=0, claim=0
        )
        notice = Notice(words, prompt)
        await post(desk, prompt.room_id, notice, transaction, name="notice", within=UPLOADING)

    def said(self, words: str) -> Message:
        """Return the message as if it said only that."""
        return replace(self.prompt.messages[0], body=words)


Command = Callable[[Call], Awaitable[str | None]]

COMMANDS: dict[str, Command] = {}
ADMIN_COMMANDS: dict[str, Command] = {}  # in the admin room alone, where they come first
_CALLED: dict[Command, dict[Language, str]] = {}


def command(
    french: str, english: str, *more: str, admin: bool = False
) -> Callable[[Command], Command]:
    """Register a command under its names; it returns what to say, None for nothing."""

    def register(function: Command) -> Command:
        known = ADMIN_COMMANDS if admin else COMMANDS
        known.update(dict.fromkeys((french, english, *more), function))
        _CALLED[function] = {"fr": french, "en": english}
        return function

    return register


async def run(name: str, call: Call) -> str | None:
    """Do what the command asks for and return what to say, None for nothing."""
    known = COMMANDS | ADMIN_COMMANDS if call.administers else COMMANDS
    if name in known:
        return await known[name](call)
    name = name[:_LONGEST]
    sentences = [call.texts("command unknown", name=name)]
    near = dict.fromkeys(
        known[one] for one in get_close_matches(name, known, n=_MOST, cutoff=_NEAR)
    )
    if near:
        commands = ", ".join(f"`!{_CALLED[one][call.texts.language]}`" for one in near)
        sentences.append(call.texts("command nearest", commands=commands))
    return " ".join(sentences)
