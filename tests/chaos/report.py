"""The report of a run, as lines of text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from tests.chaos.checker import Verdict
from tests.chaos.killer import Life
from tests.chaos.traffic import ChaosPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosReport:
    """The history of a run and the verdict about it.

    Attributes:
        calls: number of requests to the model for each prompt, by the prompt's number.
        bugs: number of unexpected errors in the bot's log.
        times: `time.monotonic()` at the run's start, after everybody joined, and at the end.
    """

    seed: int
    verdict: Verdict
    lives: Sequence[Life]
    prompts: Sequence[ChaosPrompt]
    calls: Mapping[int, int]
    bugs: int
    times: tuple[float, float, float]

    @property
    def stuck(self) -> Sequence[ChaosPrompt]:
        """The prompts whose sender saw no whole reply in time."""
        return [prompt for prompt in self.prompts if not prompt.whole]

    @property
    def excessive(self) -> Sequence[ChaosPrompt]:
        """The prompts with more requests to the model than crashes and joined prompts explain."""
        return [one for one in self.prompts if self.calls.get(one.number, 0) > self._allowed(one)]

    @property
    def fine(self) -> bool:
        """Return whether all promises were kept."""
        verdict = self.verdict
        kept = not (verdict.lost or verdict.duplicated or self.stuck)
        return kept and not self.excessive and not self.bugs

    @property
    def conclusion(self) -> str:
        """The line with the three counts."""
        verdict = self.verdict
        lost, duplicated = len(verdict.lost), len(verdict.duplicated)
        return f"lost {lost} duplicated {duplicated} stuck {len(self.stuck)}"

    def kills(self) -> Iterator[str]:
        """Yield a line for each kill: time, kind, work, and the delay until the work went on."""
        for number, (life, after) in enumerate(zip(self.lives, self.lives[1:], strict=False), 1):
            then = after.at.timestamp()
            shown = sum(min(one.shown, default=then) < then for one in after.interrupted)
            yield (
                f"{life.ended - self.times[1]:6.1f} s  kill {number}: {life.how};"
                f" outstanding {len(after.interrupted)}, of these shown {shown};"
                f" {'cold start' if after.cold else 'start'}, imports {_seconds(after.imported)},"
                f" logged in {_seconds(after.started)}, progress {_seconds(after.progress)}"
            )

    def faults(self) -> Iterator[str]:
        """Yield a line for each broken promise."""
        for kind, faults in (("lost", self.verdict.lost), ("twice", self.verdict.duplicated)):
            for fault in faults:
                yield f"{kind}: {fault.number}, {fault.event_id}: {fault.found}"
        for prompt in self.stuck:
            yield f"stuck: {prompt.number}, {prompt.event_id}, in {prompt.room_id}"
        for prompt in self.excessive:
            calls, allowed = self.calls[prompt.number], self._allowed(prompt)
            yield f"calls: {prompt.number}, {prompt.event_id}: {calls}, explained {allowed}"
        if self.bugs:
            yield f"bugs in the bot's log: {self.bugs}"

    def figures(self) -> Iterator[str]:
        """Yield the lines with the seed, the counts and the times."""
        begun, ready, end = self.times
        prompts, after = self.prompts, self.lives[1:]
        calls = sum(self.calls.values())
        yield (
            f"seed {self.seed}, kills {len(after)}, prompts {len(prompts)}, {end - begun:.0f} s"
            f" ({ready - begun:.0f} s of them before the first prompt)"
        )
        most = max(self.calls.values(), default=0)
        over = len(self.excessive)
        yield (
            f"model calls {calls / len(prompts):.2f} per prompt, at most {most};"
            f" {over} prompts with more than 1 + crashes + joined"
        )
        for kind, lives in (
            ("forked", [life for life in after if not life.cold]),
            ("cold", [life for life in after if life.cold]),
        ):
            yield f"{kind} starts: imports {_spread([life.imported for life in lives])}"
            recoveries = [life.progress for life in lives]
            yield f"    start to progress {_spread(recoveries)}"
            yield f"    imports to progress {_spread([_after_imports(life) for life in lives])}"

    def _allowed(self, prompt: ChaosPrompt) -> int:
        crashes = sum(
            prompt in life.interrupted
            or _is_between(life.at.timestamp(), prompt.shown)
            or _is_between(life.at.timestamp(), prompt.writing)
            for life in self.lives
        )
        # An edit that a crash leaves unfinished is handled again, so its text is requested again.
        return 1 + crashes + prompt.joined + (crashes if prompt.edited else 0)


def _after_imports(life: Life) -> float | None:
    if life.progress is None or life.imported is None:
        return None
    return life.progress - life.imported


def _spread(values: Sequence[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return "unknown"
    hundredths = quantiles(known, n=100, method="inclusive") if len(known) > 1 else known * 99
    return (
        f"median {hundredths[49]:.2f} s, p95 {hundredths[94]:.2f} s, max {known[-1]:.2f} s"
        f" (of {len(known)})"
    )


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f} s"


def _is_between(start: float, moments: Sequence[float]) -> bool:
    """Return whether a process began while a reply changed, or its prompt was written.

    The whole text of a reply may be sent before the bot has recorded that it is complete.
    """
    return bool(moments) and min(moments) < start < max(moments)
