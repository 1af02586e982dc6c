"""The registry of commands, the context that each command gets, and the parts that run it."""

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

UPLOADING = 600.0  # seconds for which a file is tried; each try uploads all of it

_MODERATOR = 50  # power level (spec: m.room.power_levels, as clients name it)
_NEAR = 0.5  # lowest ratio (difflib) of a similar name
_MOST = 3  # similar names to suggest
_LONGEST = 40  # characters to show of an unknown name


@dataclass(frozen=True, slots=True)
class About:
    """Facts about the service; None where one is not configured."""

    version: str
    status_page: str | None = None
    contact: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandContext:
    """One typed command, and the parts that commands work with.

    Attributes:
        argument: the text after the command's name.
        card: the model that answers in the conversation.
        texts: the sentences in the conversation's language.
        exporting: lock held while an exported file is in memory, at most one at a time.
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
        """The person who typed the command."""
        return self.prompt.sender

    @property
    def scope(self) -> Conversation:
        """The thread, or the whole room, that a choice made here is for."""
        return Conversation(self.prompt.room_id, self.prompt.messages[0].thread_root)

    @property
    def may_choose(self) -> bool:
        """Whether the person may choose for the scope: only moderators may for a whole salon."""
        if self.scope.thread_root is not None or self.matrix.room(self.prompt.room_id).direct:
            return True
        return self.is_moderator

    @property
    def is_moderator(self) -> bool:
        """Whether the person is a moderator of the room."""
        return self.matrix.power_level(self.prompt.room_id, self.sender) >= _MODERATOR

    @property
    def is_admin_command(self) -> bool:
        """Whether an admin typed the command in the admin room."""
        in_admin_room = self.matrix.room(self.prompt.room_id).admin
        return in_admin_room and self.sender in self.admins

    async def attach(self, attachment: Attachment, stage: str = "") -> None:
        """Send a file to the command's room, exactly once.

        Args:
            attachment: the file.
            stage: the name that distinguishes it from other files of the same command.

        Raises:
            TooLarge: the homeserver accepts no file of this size.
            MatrixError: the file cannot be sent.
        """
        await self.notifier.send_once(
            self.prompt.room_id,
            replace(attachment, to=self.prompt),
            self.prompt.event_id,
            f"attachment {stage}",
            failpoint="attachment",
            within=UPLOADING,
        )

    async def say(self, text: str, stage: str) -> None:
        """Send a notice before the command's result, exactly once.

        Args:
            text: the notice, in Markdown.
            stage: the name that distinguishes it from other notices of the same command.
        """
        await self.notifier.send_once(
            self.prompt.room_id,
            Notice(text=text, to=self.prompt),
            self.prompt.event_id,
            f"notice {stage}",
            within=UPLOADING,
        )

    def message_with(self, body: str) -> Message:
        """Return the command's message with another body."""
        return replace(self.prompt.messages[0], body=body)


Command = Callable[[CommandContext], Awaitable[str | None]]

COMMANDS: dict[str, Command] = {}
ADMIN_COMMANDS: dict[str, Command] = {}  # only in the admin room, where they override COMMANDS
_NAMES: dict[Command, dict[Language, str]] = {}


def command(
    french: str, english: str, *more: str, admin: bool = False
) -> Callable[[Command], Command]:
    """Register a command under its names; it returns the text to send, or None."""

    def register(function: Command) -> Command:
        known = ADMIN_COMMANDS if admin else COMMANDS
        known.update(dict.fromkeys((french, english, *more), function))
        _NAMES[function] = {"fr": french, "en": english}
        return function

    return register


class Commands:
    """Runs commands, each in its own context."""

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

    async def run(self, run: Run) -> str | None:
        """Run a command, and return the text to send; None for none."""
        prompt = run.prompt
        chosen = await self._contexts.chosen(prompt.conversation)
        context = self._context(
            prompt=prompt, argument=run.argument, card=chosen.card, texts=chosen.texts
        )
        known = COMMANDS | ADMIN_COMMANDS if context.is_admin_command else COMMANDS
        if run.name in known:
            return await known[run.name](context)
        return _unknown(run.name[:_LONGEST], known, context.texts)


def _unknown(name: str, known: Mapping[str, Command], texts: Texts) -> str:
    """Return that the command is unknown, and the commands with similar names."""
    sentences = [texts("command unknown", name=name)]
    near = dict.fromkeys(
        known[one] for one in get_close_matches(name, known, n=_MOST, cutoff=_NEAR)
    )
    if near:
        commands = ", ".join(f"`!{_NAMES[one][texts.language]}`" for one in near)
        sentences.append(texts("command nearest", commands=commands))
    return " ".join(sentences)
