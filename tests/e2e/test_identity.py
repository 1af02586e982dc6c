"""A device that Element and Tchap trust: strict clients, recovery, and what an operator types."""

import asyncio
import io
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
import typer

from bot import identity
from bot.config.settings import load
from bot.core.events import Invite, Joined, RoomId
from bot.core.outgoing import Notice
from bot.errors import ConfigError, IdentityError
from bot.matrix import own_devices
from bot.matrix.adapter import NioMatrix
from bot.matrix.own_devices import IdentityStatus
from bot.matrix.session import Session
from bot.runtime.failpoints import IDENTITY_STEPS
from bot.startup import account_of, vault_of
from bot.storage.ledger import SqlStore
from tests.harness.bot import Bot, Launch
from tests.harness.client_view import Seen
from tests.harness.expectations import said, until
from tests.harness.js_person import JsPerson
from tests.harness.model import ScriptedModel
from tests.harness.person import Person
from tests.harness.synapse import Synapse
from tests.harness.vault import health
from tests.sending import send

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRUSTED = {"colour": "NONE", "reason": None}
STRANGERS = "the account has other devices"


class IdentitySetup:
    """Makes bots and strict persons."""

    def __init__(
        self, synapse: Synapse, model: ScriptedModel, launch: Launch, folder: Path
    ) -> None:
        self.synapse = synapse
        self._model = model
        self._launch = launch
        self._folder = folder

    async def bot(self, name: str) -> Bot:
        user_id = await self.synapse.register(name, "secret")
        matrix = {"homeserver": self.synapse.url, "user_id": user_id, "password": "secret"}
        folder = self._folder / name
        folder.mkdir()
        return Bot(
            folder,
            user_id,
            self._launch,
            matrix=matrix,
            model={"base_url": self._model.url, "name": "scripted"},
            log={"level": "debug"},
        )

    @asynccontextmanager
    async def strict(self, name: str) -> AsyncIterator[JsPerson]:
        """Let there be somebody who has dealings with signed devices alone (MSC4153)."""
        user_id = await self.synapse.register(name, "secret")
        async with JsPerson(self.synapse.url, user_id, "secret") as person:
            await person.bootstrap_cross_signing()
            await person.isolate(on=True)
            yield person


@pytest.fixture
def stage(synapse: Synapse, model: ScriptedModel, launch: Launch, tmp_path: Path) -> IdentitySetup:
    return IdentitySetup(synapse, model, launch, tmp_path)


async def answered(person: Person, room_id: RoomId, bot: Bot, text: str) -> Seen:
    await person.send(room_id, text)
    return await person.wait_for_message(
        room_id, lambda seen: seen.sender == bot.user_id and text in seen.body, within=30
    )


async def status(bot: Bot) -> IdentityStatus:
    settings = load(bot.config)
    session = Session(account_of(settings), vault_of(settings))
    async with AsyncExitStack() as parts:
        parts.push_async_callback(session.close)
        return await own_devices.status(session)


def is_whole(found: IdentityStatus) -> bool:
    return found.is_whole


@asynccontextmanager
async def earlier_version(bot: Bot) -> AsyncIterator[NioMatrix]:
    """Let the bot's device be there unsigned, as before there was an identity.

    It accepts invitations and says one thing in each room.
    """
    settings = load(bot.config)
    matrix = NioMatrix(account_of(settings), vault_of(settings), health())
    ledger = await SqlStore.open(
        settings.storage.directory / "ledger.db", bot.user_id, bot.key, health()
    )
    await ledger.close()
    await matrix._session.open()

    async def listen() -> None:
        async for batch in matrix.batches(None):
            for event in batch.events:
                if isinstance(event, Invite):
                    await matrix.join(event)
                elif isinstance(event, Joined):
                    await send(matrix, event.room_id, Notice(text="Unsigned."), event.event_id)

    listening = asyncio.get_running_loop().create_task(listen())
    try:
        yield matrix
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        await matrix.close()


async def test_interop_a_strict_client_is_answered_and_shows_no_shield(
    stage: IdentitySetup,
) -> None:
    bot = await stage.bot("trusted-assistant")
    async with bot, stage.strict("strict-alice") as alice:
        room_id = await alice.open_direct_message(bot.user_id)
        welcome = await alice.wait_for_message(room_id, lambda seen: seen.body == said("welcome"))
        reply = await answered(alice, room_id, bot, "Do you trust me")

        assert await alice.shield(room_id, welcome.event_id) == TRUSTED
        assert await alice.shield(room_id, reply.event_id) == TRUSTED


async def test_interop_an_earlier_version_s_device_is_trusted_from_the_next_start_on(
    stage: IdentitySetup, jason: JsPerson
) -> None:
    bot = await stage.bot("untrusted-assistant")
    async with stage.strict("strict-carol") as carol:
        async with earlier_version(bot) as matrix:
            room_id = await jason.open_direct_message(bot.user_id)
            old = await jason.wait_for_message(room_id, lambda seen: seen.body == "Unsigned.")
            strict_room = await carol.open_direct_message(bot.user_id)
            refused = await carol.wait_for_message(
                strict_room, lambda seen: seen.sender == bot.user_id and bool(seen.failure)
            )
            before = await jason.shield(room_id, old.event_id)
            unread = await carol.send(strict_room, "Can you read this")
            heard = await matrix.fetch(strict_room, unread)

        async with bot:
            new = await answered(jason, room_id, bot, "And now")
            reply = await answered(carol, strict_room, bot, "And now")
            after = [await jason.shield(room_id, seen.event_id) for seen in (old, new)] + [
                await carol.shield(strict_room, reply.event_id)
            ]

    assert before is not None
    assert before["reason"] == "UNSIGNED_DEVICE"
    assert "UNSIGNED" in str(refused.failure)
    assert type(heard).__name__ == "Undecryptable"
    assert after == [TRUSTED] * 3


async def test_interop_identity_and_backup_are_restored_from_the_recovery_key_alone(
    stage: IdentitySetup, jason: JsPerson
) -> None:
    bot = await stage.bot("backed-up-assistant")
    async with bot:
        room_id = await jason.open_direct_message(bot.user_id)
        await answered(jason, room_id, bot, "Is this backed up")
        await until(lambda: stage.synapse.backed_up_keys(bot.user_id) >= 2)  # theirs and ours
        async with JsPerson(stage.synapse.url, bot.user_id, "secret") as twin:
            restored = await twin.restore_identity(bot.recovery_key.read_text())
            trust = await twin.status(bot.user_id, twin.device_id)
            await until(lambda: STRANGERS in bot.log.read_text())
        assert bot.recovery_key.read_text().strip() not in bot.log.read_text()

    keys = ("masterKey", "selfSigningKey", "userSigningKey")
    assert restored["cached"] == dict.fromkeys(keys, True)
    assert restored["trusted"]
    assert restored["imported"] == restored["total"] >= 2
    assert trust["device"]["cross_signing_verified"]


async def test_an_empty_disk_with_the_recovery_key_reads_what_was_said_before(
    stage: IdentitySetup, jason: JsPerson, model: ScriptedModel
) -> None:
    bot = await stage.bot("moved-assistant")
    async with bot:
        room_id = await jason.open_direct_message(bot.user_id)
        await answered(jason, room_id, bot, "Remember the number 4711")
        await until(lambda: stage.synapse.backed_up_keys(bot.user_id) >= 2)
        await bot.stop()
        (bot.directory / "data").rename(bot.directory / "lost")

        await bot.start()
        await answered(jason, room_id, bot, "Which number was it")

    turns = [turn["content"] for turn in model.exchanges[-1].body["messages"]]
    assert "Remember the number 4711" in turns


@pytest.mark.parametrize(
    "site",
    [
        *(step for step in IDENTITY_STEPS if step != "reset_saved"),
        *("secret_stored@2", "secret_stored@3", "secret_stored@4"),
    ],
)
async def test_an_identity_that_a_kill_has_interrupted_is_completed_by_the_next_start(
    stage: IdentitySetup, site: str
) -> None:
    step, _, passage = site.partition("@")
    bot = await stage.bot(f"killed-{site.replace('@', '-')}")
    await bot.begin(BOT_FAIL=f"{step}:kill@{passage or 1}")
    await until(lambda: not bot.runs)
    async with bot:
        assert is_whole(await status(bot))
        key = bot.recovery_key.read_text()
        await bot.stop()
        (bot.directory / "data").rename(bot.directory / "lost")
        await bot.start()  # with the recovery key alone

        assert is_whole(await status(bot))
        assert bot.recovery_key.read_text() == key


@pytest.mark.parametrize(
    "site",
    ["reset_saved", "recovery_key_given", "identity_published", "backup_made", "secret_stored@2"],
)
async def test_a_reset_that_a_kill_has_interrupted_leaves_a_bot_that_starts(
    stage: IdentitySetup, site: str
) -> None:
    step, _, passage = site.partition("@")
    bot = await stage.bot(f"reset-{site.replace('@', '-')}")
    async with bot:
        await bot.stop()
        first = (await status(bot)).master_key
        bot.recovery_key.rename(bot.directory / "old.key")
        killed = {"BOT_FAIL": f"{step}:kill@{passage or 1}"}
        code, _ = await typed(bot, "reset", answers=f"y\n{bot.user_id}\n", **killed)
        assert code == -signal.SIGKILL

        await bot.start()
        found = await status(bot)
        published = site not in {"reset_saved", "recovery_key_given"}
        assert found.signed
        assert (found.master_key != first) == published
        assert is_whole(found) == published
        await bot.stop()
        if not published:
            code, _ = await typed(bot, "reset", answers=f"y\n{bot.user_id}\n")
            assert code == 0
            assert (await status(bot)).master_key != first
        assert is_whole(await status(bot))
        (bot.directory / "data").rename(bot.directory / "lost")
        await bot.start()  # with the new recovery key alone


async def test_a_first_start_that_was_interrupted_shows_the_key_to_no_log(
    stage: IdentitySetup,
) -> None:
    bot = await stage.bot("unshown-assistant")
    bot.config.write_text(bot.config.read_text().replace(str(bot.recovery_key), "null"))
    with terminal() as (_, theirs):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bot", "identity", "init", "--config", str(bot.config)),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"BOT_FAIL": "identity_saved:kill"},
        )
        assert await process.wait() == -signal.SIGKILL

    await bot.begin()
    await until(lambda: not bot.runs)

    log = bot.log.read_text()
    assert "matrix.recovery_key_file" in log
    assert "The recovery key of" not in log
    assert (await status(bot)).master_key is None


# What an operator types.


async def typed(bot: Bot, *words: str, answers: str = "", **environment: str) -> tuple[int, str]:
    """Type `assistant-tchap identity …`; return its exit code and all that it has printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bot", "identity", *words, "--config", str(bot.config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | environment,
    )
    printed, _ = await process.communicate(answers.encode())
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def test_identity_status_is_told_beside_a_running_bot(stage: IdentitySetup) -> None:
    bot = await stage.bot("watched-assistant")
    async with bot, JsPerson(stage.synapse.url, bot.user_id, "secret") as stray:
        code, told = await typed(bot, "status")
        assert code == 0
        assert "signed by the account's identity" in told
        assert stray.device_id in told

        bot.recovery_key.rename(bot.directory / "old.key")
        code, told = await typed(bot, "reset", answers=f"y\n{bot.user_id}\n")
        assert (code, "in use" in told) == (1, True)


async def test_stray_devices_are_listed_and_removed(
    stage: IdentitySetup, capsys: pytest.CaptureFixture[str]
) -> None:
    bot = await stage.bot("followed-assistant")
    async with bot, JsPerson(stage.synapse.url, bot.user_id, "secret") as stray:
        config = load(bot.config)
        await identity.devices(config)
        listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        assert "stray" in listed.pop(stray.device_id)
        [(ours, line)] = listed.items()
        assert "the assistant's" in line

        for unwanted, reason in ((ours, "own device"), ("NOBODY", "has no device NOBODY")):
            with pytest.raises(ConfigError, match=reason):
                await identity.devices(config, unwanted)
        await identity.devices(config, stray.device_id)
        assert stray.device_id not in capsys.readouterr().out


async def test_identity_reset_is_asked_for_twice(
    stage: IdentitySetup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bot = await stage.bot("renewed-assistant")
    async with bot:
        await bot.stop()
        config, first = load(bot.config), (await status(bot)).master_key
        with pytest.raises(ConfigError, match="move that file away"):
            await identity.reset(config)
        old = bot.recovery_key.rename(bot.directory / "old.key")
        for answers in ("", "n\n", "y\n", "y\n@other:stand.test\n"):
            monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
            with pytest.raises((typer.Abort, IdentityError)):
                await identity.reset(config)
            assert (await status(bot)).master_key == first
        assert "must verify it again" in capsys.readouterr().out

        code, told = await typed(bot, "reset", answers="y\n")
        assert (code, "nothing was changed" in told) == (2, True)
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"y\n{bot.user_id}\n"))
        assert await identity.reset(config)
        found = await status(bot)
        assert is_whole(found)
        assert found.master_key != first
        assert bot.recovery_key.read_text() != old.read_text()
        await bot.start()


async def test_identity_restore_takes_a_typed_recovery_key(
    stage: IdentitySetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = await stage.bot("restored-assistant")
    async with bot:
        await bot.stop()
        key = bot.recovery_key.read_text()
        bot.recovery_key.unlink()
        (bot.directory / "data").rename(bot.directory / "lost")
        monkeypatch.setattr(typer, "prompt", lambda *_, **__: "wrong")
        with pytest.raises(ConfigError, match="no recovery key"):
            await identity.restore(load(bot.config))

        code, told = await typed(bot, "restore", answers=key)

        assert (code, "signed by the account's identity" in told) == (0, True)
        assert key.strip() not in told
        await bot.start()


async def test_without_file_or_terminal_the_first_start_makes_nothing(
    stage: IdentitySetup,
) -> None:
    bot = await stage.bot("homeless-assistant")
    text = bot.config.read_text()
    bot.config.write_text(text.replace(str(bot.recovery_key), "null"))

    code, told = await typed(bot, "init")

    assert (code, "matrix.recovery_key_file" in told) == (2, True)
    made = [one.name for one in (bot.directory / "data").rglob("*") if one.is_file()]
    assert made == ["lock"]


async def test_on_a_terminal_the_recovery_key_is_shown_once(stage: IdentitySetup) -> None:
    bot = await stage.bot("shown-assistant")
    bot.config.write_text(bot.config.read_text().replace(str(bot.recovery_key), "null"))
    with terminal() as (ours, theirs):
        shown = list[str]()
        for _ in range(2):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bot", "identity", "init", "--config", str(bot.config)),
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
            )
            assert await process.wait() == 0
            shown.append(os.read(ours, 1 << 16).decode())

    key = next(line.strip() for line in shown[0].splitlines() if line.startswith("    "))
    assert key not in shown[1]
    async with JsPerson(stage.synapse.url, bot.user_id, "secret") as twin:
        assert (await twin.restore_identity(key))["trusted"]


@contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    with closing(os.fdopen(ours, "rb", 0)), closing(os.fdopen(theirs, "rb", 0)):
        yield ours, theirs
