"""The commands by their names, and the context that each is given."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial

from bot.campaigns.admin import CampaignAdmin
from bot.core.events import Conversation, Message, Prompt, UserId
from bot.core.export_format import ExportName
from bot.core.intents import Run
from bot.core.model_catalog import Catalogue, ModelCard
from bot.core.outgoing import Attachment, Notice
from bot.dispatch.prompt_changes import PromptChanges
from bot.feedback.collector import FeedbackCollector
from bot.i18n.texts import Language, Texts
from bot.ports.clock import Clock
from bot.ports.ledger import Store
from bot.ports.matrix import Matrix
from bot.ports.statistics import Export, Statistics
from bot.replies.context_builder import Contexts
from bot.replies.generations import ActiveGenerations
from bot.replies.notices import Notifier

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandContext:
    """One command as it was typed, and what commands work with.

    Attributes:
        argument: the text behind the command's name.
        card: the model that answers in the conversation.
        texts: the sentences in the conversation's language.
        exporting: a lock held while a file is in memory: there is one at a time.
    """

    prompt: Prompt
    argument: str
    card: ModelCard
    texts: Texts
    matrix: Matrix
    store: Store
    clock: Clock
    generations: ActiveGenerations
    prompt_changes: PromptChanges
    feedback: FeedbackCollector
    campaigns: CampaignAdmin
    notifier: Notifier
    statistics: Statistics
    exports: Mapping[ExportName, Export]
    catalogue: Catalogue
    about: About
    admins: frozenset[UserId]
    exporting: asyncio.Lock

    @property
    def sender(self) -> UserId:
        """Who has typed it."""
        return self.prompt.sender

    @property
    def scope(self) -> Conversation:
        """The thread for which a choice made here holds, or all of the room."""
        return Conversation(self.prompt.room_id, self.prompt.messages[0].thread_root)

    @property
    def may_choose(self) -> bool:
        """Tell whether the person may choose here: for all of a salon, its moderators only."""
        if self.scope.thread_root is not None or self.matrix.room(self.prompt.room_id).direct:
            return True
        return self.moderates

    @property
    def moderates(self) -> bool:
        """Tell whether the person is a moderator of the room."""
        return self.matrix.power_level(self.prompt.room_id, self.sender) >= _MODERATOR

    @property
    def administers(self) -> bool:
        """Tell whether it was typed in the admin room, by one of the admins."""
        here = self.matrix.room(self.prompt.room_id).admin
        return here and self.sender in self.admins

    async def attach(self, one: Attachment, stage: str = "") -> None:
        """Send a file to where the command was typed, once.

        Args:
            one: which.
            stage: tells it from others that the same command sends.

        Raises:
            TooLarge: the homeserver takes no file of its size.
            MatrixError: it cannot be sent.
        """
        await self.notifier.send_once(
            self.prompt.room_id,
            replace(one, to=self.prompt),
            self.prompt.event_id,
            f"attachment {stage}",
            failpoint="attachment",
            within=UPLOADING,
        )

    async def say(self, words: str, stage: str) -> None:
        """Say something before the command's last word, once; `stage` tells it from the rest."""
        await self.notifier.send_once(
            self.prompt.room_id,
            Notice(words, self.prompt),
            self.prompt.event_id,
            f"notice {stage}",
            within=UPLOADING,
        )

    def said(self, words: str) -> Message:
        """Return the message as if it said only that."""
        return replace(self.prompt.messages[0], body=words)


Command = Callable[[CommandContext], Awaitable[str | None]]

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


class Commands:
    """Runs commands."""

    def __init__(
        self,
        *,
        matrix: Matrix,
        store: Store,
        clock: Clock,
        contexts: Contexts,
        generations: ActiveGenerations,
        prompt_changes: PromptChanges,
        feedback: FeedbackCollector,
        campaigns: CampaignAdmin,
        notifier: Notifier,
        statistics: Statistics,
        exports: Mapping[ExportName, Export],
        catalogue: Catalogue,
        about: About,
        admins: frozenset[UserId],
    ) -> None:
        self._contexts = contexts
        self._context = partial(
            CommandContext,
            matrix=matrix,
            store=store,
            clock=clock,
            generations=generations,
            prompt_changes=prompt_changes,
            feedback=feedback,
            campaigns=campaigns,
            notifier=notifier,
            statistics=statistics,
            exports=exports,
            catalogue=catalogue,
            about=about,
            admins=admins,
            exporting=asyncio.Lock(),
        )

    async def run(self, asked: Run) -> str | None:
        """Do what the command asks for and return what to say, None for nothing."""
        prompt = asked.prompt
        chosen = await self._contexts.chosen(prompt.conversation)
        context = self._context(
            prompt=prompt, argument=asked.argument, card=chosen.card, texts=chosen.texts
        )
        known = COMMANDS | ADMIN_COMMANDS if context.administers else COMMANDS
        if asked.name in known:
            return await known[asked.name](context)
        return _unknown(asked.name[:_LONGEST], known, context.texts)


def _unknown(name: str, known: Mapping[str, Command], texts: Texts) -> str:
    """Return that there is no such command, and which ones have a similar name."""
    sentences = [texts("command unknown", name=name)]
    near = dict.fromkeys(
        known[one] for one in get_close_matches(name, known, n=_MOST, cutoff=_NEAR)
    )
    if near:
        commands = ", ".join(f"`!{_CALLED[one][texts.language]}`" for one in near)
        sentences.append(texts("command nearest", commands=commands))
    return " ".join(sentences)
