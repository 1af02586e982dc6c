"""The command line: its commands, and the messages and exit codes of their errors."""

import asyncio
import importlib
import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import typer

from bot.core.export_format import ExportName, Format
from bot.errors import AccountExpired, BotError, ConfigError, LoggedOut

app = typer.Typer(
    name="assistant-tchap",
    help="The French State's AI assistant in Tchap, its Matrix messenger.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_ADVICE: dict[type[BotError], str] = {
    LoggedOut: (
        "the device is logged out for good; to start over as a new device, move the folder matrix"
        " of storage.directory away and start once with --new-device (what was written to the old"
        " device stays unreadable)"
    ),
    AccountExpired: (
        "the Tchap account has expired: ask for the renewal mail in any Tchap client, follow its"
        " link, then start again"
    ),
}


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The YAML file; see config.example.yaml.")],
    *,
    new_ledger: Annotated[
        bool, typer.Option("--new-ledger", help="Begin an empty ledger where it is gone.")
    ] = False,
    new_device: Annotated[
        bool, typer.Option("--new-device", help="Log in as a new device where that is gone.")
    ] = False,
) -> None:
    """Run the assistant until SIGTERM or Ctrl-C."""
    failure = None
    try:
        settings = importlib.import_module("bot.config.settings").load(config)
        importlib.import_module("bot.monitoring.logs").configure(
            settings.log.level, settings.log.format
        )
        start_over = importlib.import_module("bot.startup").StartOver(new_ledger, new_device)
        asyncio.run(importlib.import_module("bot.app").run(settings, start_over))
    except* BotError as group:
        failure = _first(group)
    except* Exception as group:  # noqa: BLE001  # its values may contain text of a conversation
        failure = _first(group)
    if failure is not None:
        _fail(failure)


feedback = typer.Typer(help="What people think of replies.", no_args_is_help=True)
app.add_typer(feedback, name="feedback")


@feedback.command()
def export(
    config: Annotated[Path, typer.Option(help="The YAML file; see config.example.yaml.")],
    what: Annotated[ExportName, typer.Option()] = "ratings",
    form: Annotated[Format, typer.Option("--format")] = "csv",
    output: Annotated[Path | None, typer.Option(help="A new file; else the screen.")] = None,
) -> None:
    """Write out what people think and have shared; the assistant may run meanwhile."""
    try:
        settings = importlib.import_module("bot.config.settings").load(config)
        exports = importlib.import_module("bot.offline")
        with _opened(output) as file:
            number = asyncio.run(exports.export(settings, what, form, file))
    except BotError as error:
        _fail(error)
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        _fail(BotError(f"{output or 'the screen'} cannot be written: {error.strerror}"))
    typer.echo(f"{what}: {number}", err=True)


@feedback.command()
def campaign(
    file: Annotated[Path, typer.Argument(help="The campaign, in YAML; see docs/campaigns.md.")],
    config: Annotated[Path, typer.Option(help="The YAML file; see config.example.yaml.")],
) -> None:
    """Keep a campaign as a draft; it is launched from the admin room."""
    try:
        settings = importlib.import_module("bot.config.settings").load(config)
        text = file.read_text("utf-8")
        draft = asyncio.run(importlib.import_module("bot.offline").draft(settings, text))
    except BotError as error:
        _fail(error)
    except (OSError, UnicodeDecodeError) as error:
        _fail(BotError(f"{file} cannot be read: {getattr(error, 'strerror', 'no UTF-8')}"))
    if draft is None:
        _fail(BotError("a campaign of this name was launched before: choose another"))
    typer.echo(f"{draft.name} is a draft: !sondage apercu {draft.name}, in the admin room")


def _opened(output: Path | None) -> AbstractContextManager[TextIO]:
    """Open the output: a new file, accessible to its owner only, or standard output."""
    if output is None:
        return nullcontext(sys.stdout)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="")


identity = typer.Typer(
    help="The account's cross-signing identity, which lets clients trust the assistant.",
    no_args_is_help=True,
)
app.add_typer(identity, name="identity")

_Config = Annotated[Path, typer.Option(help="The YAML file; see config.example.yaml.")]


@identity.command(name="status")
def identity_status(config: _Config) -> None:
    """Say how the identity stands, and exit 1 where it is not whole; the assistant may run."""
    if not _identity("status", config):
        raise SystemExit(1)


@identity.command(name="init")
def identity_init(config: _Config) -> None:
    """Make the identity, or complete it, as the assistant's start does."""
    _identity("init", config)


@identity.command(name="restore")
def identity_restore(config: _Config) -> None:
    """Take identity and room keys from the homeserver, with the recovery key."""
    _identity("restore", config)


@identity.command(name="reset")
def identity_reset(config: _Config) -> None:
    """Make another identity; whoever has verified the assistant must do so again."""
    _identity("reset", config)


@identity.command(name="devices")
def identity_devices(
    config: _Config,
    remove: Annotated[
        list[str] | None, typer.Option(help="The id of a device to log out for good.")
    ] = None,
) -> None:
    """List the account's devices, or remove some; the assistant may run meanwhile."""
    _identity("devices", config, *(remove or []))


def _identity(command: str, config: Path, *arguments: str) -> bool:
    """Run a command of `bot.identity`, and return its result."""
    try:
        settings = importlib.import_module("bot.config.settings").load(config)
        importlib.import_module("bot.monitoring.logs").configure("warning", "console")
        module = importlib.import_module("bot.identity")
        return bool(asyncio.run(getattr(module, command)(settings, *arguments)))
    except typer.Abort:
        _fail(ConfigError("nothing was changed"))
    except Exception as error:  # noqa: BLE001  # its values may contain keys
        _fail(error)


@app.command(name="version")
def show_version() -> None:
    """Print the version."""
    typer.echo(version("assistant-tchap"))


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first error of the group; errors of tasks that fail together have one cause."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _fail(error: Exception) -> NoReturn:
    """Print the error and advice, and exit: code 2 for the configuration, 1 for the rest."""
    if isinstance(error, BotError):
        advice = _ADVICE.get(type(error))
        message = f"{error}{f'; {advice}' if advice else ''}"
    else:
        frames = "".join(traceback.format_tb(error.__traceback__))
        message = f"stopped by a bug, {type(error).__name__}; please report these lines:\n{frames}"
    typer.echo(f"assistant-tchap: {message}", err=True)
    raise SystemExit(2 if isinstance(error, ConfigError) else 1)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
