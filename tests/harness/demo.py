"""The program of `make demo`: its options, its output, and its end.

ASK="…" in the environment asks one question and ends; JSON=1 then prints each step as JSON.
SAMPLE=1 fills the dashboard with invented ratings.
"""

import os
import sys

try:
    import asyncio
    import io
    import json
    import logging
    import signal
    import threading
    from collections.abc import AsyncIterator
    from types import FrameType

    from rich.console import Console
    from rich.live import Live
    from rich.panel import Panel
    from rich.progress import Progress, SpinnerColumn, TextColumn
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    with Console(stderr=True).status("Loading"):
        from tests.harness import demo_model
        from tests.harness.demo_stack import Failed, playing
        from tests.harness.dialogue import Dialogue, Question, Unanswered
except KeyboardInterrupt:  # the imports take a second or two
    os._exit(130)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SMALL = (
    "The model is SmolLM2 with 135 million parameters: tiny, English only, often wrong. It shows"
    " the way of a message, not how good the assistant is."
)
_SCRIPTED = (
    "There is no model here: requirements/model.txt is not installed, or has no wheel for this"
    " platform. A script repeats what you write instead."
)
_JOIN = (
    "Any Matrix client on this machine can join: give it the homeserver's URL and log in as the"
    " agent. What was said before that login stays unreadable there."
)
_COLUMNS = (
    SpinnerColumn(finished_text="✓"),
    TextColumn("{task.description}"),
    TextColumn("{task.elapsed:.1f} s"),
)


async def _demo(question: str, *, as_json: bool) -> None:
    # Standard output is for the conversation, standard error for everything else.
    screen = Console(stderr=True, force_terminal=False if as_json else None)
    sample = bool(os.environ.get("SAMPLE"))
    async with playing(Progress(*_COLUMNS, console=screen), sample=sample) as dialogue:
        screen.print(_SMALL if demo_model.available() else _SCRIPTED, style="yellow")
        if question:
            await _ask(dialogue, question, as_json=as_json)
        else:
            await _converse(dialogue)


async def _ask(dialogue: Dialogue, question: str, *, as_json: bool) -> None:
    """Print each step of the reply as it comes."""
    out = Console()
    async for step in dialogue.ask(question):
        if as_json:
            fields = {"t": round(step.t, 3), "kind": step.kind, "text": step.text}
            out.out(json.dumps(fields), highlight=False)
        else:
            row = Table.grid(padding=(0, 1))
            row.add_column(width=8, justify="right")
            row.add_column(width=5)
            row.add_row(f"{step.t:.2f} s", step.kind, Text(step.text))
            out.print(row)


async def _converse(dialogue: Dialogue) -> None:
    """Send each typed line as a prompt, until the input ends."""
    out = Console(highlight=False)
    out.print(_access(dialogue), _JOIN, "Ctrl-D or /quit ends the demo and removes all of it.")
    out.print(_panel(dialogue.welcome, "not the model's words"))
    out.print("> ", end="")
    voting = _Voting(dialogue, out)
    async for line in _lines():
        if not os.isatty(0):
            out.print(Text(line))
        if line == "/quit":
            break
        if line and not await voting.takes(line):
            await _watch(dialogue, line, out)
            await voting.look()
        out.print("> ", end="")
    out.print()


class _Voting:
    """Votes in the bot's polls, which are typed as the number of an answer."""

    def __init__(self, dialogue: Dialogue, out: Console) -> None:
        self._dialogue = dialogue
        self._out = out
        self._open: Question | None = None
        self._last: Question | None = None

    async def look(self) -> None:
        """Show the poll, if one has come."""
        new = await self._dialogue.question(self._last)
        if new is not None:
            self._open = self._last = new
            numbered = enumerate(new.answers.values(), 1)
            lines = [new.text, *(f"{number}. {words}" for number, words in numbered)]
            remark = "a poll: type the number of an answer, or go on"
            self._out.print(_panel("\n".join(lines), remark))

    async def takes(self, line: str) -> bool:
        """Vote if the line is the number of an answer; return whether it was."""
        answers = list(self._open.answers) if self._open is not None else []
        if self._open is None or not line.isdecimal() or not 1 <= int(line) <= len(answers):
            return False
        thanks = await self._dialogue.vote(self._open, answers[int(line) - 1])
        self._open = None
        if thanks:
            self._out.print(_panel(thanks, "not the model's words"))
        else:
            await self.look()
        return True


async def _watch(dialogue: Dialogue, prompt: str, out: Console) -> None:
    """Show the growing reply in place."""
    writing = Spinner("dots", "Assistant IA is writing…")
    with Live(writing, console=out, refresh_per_second=12) as live:
        try:
            async for step in dialogue.ask(prompt):
                live.update(_panel(step.text, f"{step.kind}, {step.t:.1f} s"))
        except Unanswered as error:
            live.update(_panel(str(error), "not the model's words"))
    if not out.is_terminal:
        out.line()  # without a terminal, Live prints only the last state, without a newline


def _panel(text: str, remark: str) -> Panel:
    """Return the panel with the bot's text, and a remark below it."""
    return Panel(
        Text(text),
        title="Assistant IA",
        title_align="left",
        subtitle=remark,
        subtitle_align="right",
    )


def _access(dialogue: Dialogue) -> Table:
    """Return the table of accounts and addresses for other clients, and of logs and files."""
    agent, bot = dialogue.agent, dialogue.bot
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")  # do not truncate
    table.add_row("Homeserver", agent.homeserver)
    table.add_row("Agent", f"{agent.user_id}, password {agent.password}")
    table.add_row("Assistant IA", bot.user_id)
    table.add_row("Its device", dialogue.identity["This device"])
    table.add_row("Dashboard", f"http://127.0.0.1:{bot.port}/")
    table.add_row("Bot's log", str(bot.log))
    return table


async def _lines() -> AsyncIterator[str]:
    """Yield the typed lines; the terminal itself allows corrections."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        # Not sys.stdin: the lock of a reader that still waits would prevent an orderly exit.
        for line in io.FileIO(0, closefd=False):
            loop.call_soon_threadsafe(lines.put_nowait, line.decode(errors="replace").strip())
        loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line


async def _until_signalled(question: str, *, as_json: bool) -> int:
    """Run the demo; return 0, or 128 and the number of the signal that ended it, as shells do."""
    loop = asyncio.get_running_loop()
    demo = asyncio.current_task()
    assert demo
    received: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        _ignore_signals()  # one signal is enough, and another must not disturb the orderly end
        received.append(number)
        loop.call_soon_threadsafe(demo.cancel)

    for number in _SIGNALS:
        signal.signal(number, end)
    try:
        await _demo(question, as_json=as_json)
    except asyncio.CancelledError:
        return 128 + received[0]
    finally:
        _ignore_signals()
    return 0


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Run the demo; exit with code 1 and a sentence if it cannot go on."""
    question = os.environ.get("ASK", "").strip()
    as_json = os.environ.get("JSON", "0") not in {"", "0"}
    if as_json and not question:
        sys.exit('JSON=1 goes with ASK="…": it prints the steps of one answer.')
    for name in list(os.environ):
        if name.startswith("ASSISTANT_"):  # they would change the demo's configuration
            del os.environ[name]
    logging.getLogger("nio").setLevel(
        logging.ERROR
    )  # its warnings about waits are not for the screen
    try:
        sys.exit(asyncio.run(_until_signalled(question, as_json=as_json)))
    except (Failed, Unanswered) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # nothing was started yet
        os._exit(130)


if __name__ == "__main__":
    main()
