"""The command line: what an operator types, and what comes back when it cannot be done."""

import asyncio
import importlib
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bot.errors import AccountExpired, BotError, ConfigError, LoggedOut

app = typer.Typer(
    name="assistant-tchap",
    help="The French State's AI assistant in Tchap, its Matrix messenger.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_ADVICE = {
    LoggedOut: (
        "the device is logged out for good; to start over as a new device, move storage.directory"
        " away (what was written to the old device stays unreadable)"
    ),
    AccountExpired: (
        "the Tchap account has expired: ask for the renewal mail in any Tchap client, follow its"
        " link, then start again"
    ),
}


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The YAML file; see config.example.yaml.")],
) -> None:
    """Run the assistant until SIGTERM or Ctrl-C."""
    failure = None
    try:
        settings = importlib.import_module("bot.config").load(config)
        importlib.import_module("bot.logs").configure(settings.log.level, settings.log.format)
        asyncio.run(importlib.import_module("bot.app").run(settings))
    except* BotError as group:
        failure = _first(group)
    except* Exception as group:  # noqa: BLE001  # its values may be text of a conversation
        failure = _first(group)
    if failure is not None:
        _fail(failure)


@app.command(name="version")
def show_version() -> None:
    """Print the version."""
    typer.echo(version("assistant-tchap"))


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first error of the group: tasks that fall together have one cause."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _fail(error: Exception) -> NoReturn:
    """Say what is wrong and what to do, and exit: 2 for the configuration, 1 for the rest."""
    if isinstance(error, BotError):
        advice = _ADVICE.get(type(error))
        said = f"{error}{f'; {advice}' if advice else ''}"
    else:
        frames = "".join(traceback.format_tb(error.__traceback__))
        said = f"stopped by a bug, {type(error).__name__}; please report these lines:\n{frames}"
    typer.echo(f"assistant-tchap: {said}", err=True)
    raise SystemExit(2 if isinstance(error, ConfigError) else 1)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
