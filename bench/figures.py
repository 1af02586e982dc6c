"""The figures of a run, from its records: the bot compared with F, in tables of Markdown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, quantiles

from rich import box
from rich.table import Table

from bench.between import Request
from bench.rig import CLEAR, ENCRYPTED, FLOOR, NAMES, Part, Reply
from bench.rows import DRIFT_LIMIT

_ENOUGH_FOR_P90 = 10
_ENOUGH_FOR_P99 = 100

Parts = Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, measured once per reply.

    Attributes:
        samples: the samples by client, in the order of the rounds.
        typical: the function that summarizes many samples.
    """

    label: str
    samples: Mapping[str, Sequence[float]]
    typical: Callable[[Sequence[float]], float]

    @property
    def drift(self) -> float:
        """The difference of F's second half from its first, as a share of the first."""
        floor = self.samples[FLOOR]
        half = len(floor) // 2
        return abs(self.typical(floor[half:]) / self.typical(floor[:half]) - 1)

    def row(self) -> list[str]:
        """Return the cells: label, samples, F and its drift, each bot alone and relative to F."""
        floor = self.samples[FLOOR]
        spoilt = ", not publishable" if self.drift > DRIFT_LIMIT else ""
        cells = [self.label, str(len(floor)), self._cell(FLOOR), f"{self.drift:.0%}{spoilt}"]
        for name in (CLEAR, ENCRYPTED):
            samples = self.samples[name]
            more = self.typical([a - b for a, b in zip(samples, floor, strict=True)])
            ratio = self.typical(samples) / self.typical(floor)
            cells += [self._cell(name), f"{more:+.1f}", f"{ratio:.1f}"]
        return cells

    def _cell(self, name: str) -> str:
        samples = self.samples[name]
        return f"{self.typical(samples):.1f} ({_spread(samples)})"


def _spread(samples: Sequence[float]) -> str:
    if len(samples) < _ENOUGH_FOR_P90:
        return f"{min(samples):.1f}-{max(samples):.1f}"
    centiles = quantiles(samples, n=100, method="inclusive")
    ranks = [90, 99] if len(samples) >= _ENOUGH_FOR_P99 else [90]
    return ", ".join(f"p{rank} {centiles[rank - 1]:.1f}" for rank in ranks)


def figures(short: Parts, streamed: Parts) -> list[Figure]:
    """Return the figures of both kinds of replies, in milliseconds."""
    return [
        _times("short: prompt in /sync → request at the model", short, _synced_to_asked),
        _times("streamed: prompt in /sync → request at the model", streamed, _synced_to_asked),
        _times("streamed: first token → first visible words", streamed, _token_to_first),
        _times("streamed: [DONE] → final visible", streamed, _done_to_final),
        _times("short: [DONE] → final visible", short, _done_to_final),
        _cpu("short: CPU per reply (mean)", short),
        _cpu("streamed: CPU per reply (mean)", streamed),
    ]


def _times(label: str, parts: Parts, measure: Callable[[Part, Reply], float]) -> Figure:
    samples = {
        name: [measure(part, reply) * 1000 for reply in part.replies]
        for name, part in parts.items()
    }
    return Figure(label, samples, median)


def _cpu(label: str, parts: Parts) -> Figure:
    samples = {}
    for name, part in parts.items():
        readings = [*(reply.cpu for reply in part.replies), part.cpu]
        samples[name] = [(after - before) * 1000 for before, after in pairwise(readings)]
    return Figure(label, samples, fmean)


def _synced_to_asked(part: Part, reply: Reply) -> float:
    return part.exchanges[reply.prompt].arrived - part.notes.synced[reply.event_id]


def _token_to_first(part: Part, reply: Reply) -> float:
    return reply.first - part.exchanges[reply.prompt].first_token


def _done_to_final(part: Part, reply: Reply) -> float:
    return reply.final - part.exchanges[reply.prompt].done


def table_of_figures(found: Sequence[Figure]) -> Table:
    """Return one row for each figure."""
    table = Table(box=box.MARKDOWN)
    beside = ("- F", "/ F")
    for heading in ("ms", "n", FLOOR, "drift of F", CLEAR, *beside, ENCRYPTED, *beside):
        table.add_column(heading, no_wrap=True)
    for figure in found:
        table.add_row(*figure.row())
    return table


def table_of_requests(short: Parts, streamed: Parts) -> Table:
    """Return the requests per reply to each endpoint of the homeserver, and their time."""
    table = Table(box=box.MARKDOWN)
    columns = [
        (name, kind, parts[name])
        for kind, parts in (("short", short), ("streamed", streamed))
        for name in NAMES
    ]
    table.add_column("requests per reply (median ms); each PUT send is an event", no_wrap=True)
    for name, kind, _ in columns:
        table.add_column(f"{kind}: {name}", no_wrap=True)
    asked = [(part, _by_endpoint(part.notes.requests)) for _, _, part in columns]
    for endpoint in sorted({endpoint for _, requests in asked for endpoint in requests}):
        cells = [_requests_cell(requests.get(endpoint, []), part) for part, requests in asked]
        table.add_row(endpoint, *cells)
    return table


def _requests_cell(requests: Sequence[Request], part: Part) -> str:
    if not requests:
        return ""
    took = median([request.ended - request.began for request in requests]) * 1000
    return f"{len(requests) / len(part.replies):.1f} ({took:.0f})"


def _by_endpoint(requests: Sequence[Request]) -> dict[str, list[Request]]:
    found: dict[str, list[Request]] = {}
    for request in requests:
        refused = f" {request.status}" if request.status >= 400 else ""
        found.setdefault(f"{_endpoint(request)}{refused}", []).append(request)
    return found


def _endpoint(request: Request) -> str:
    """Name the endpoint: `/rooms/{roomId}/send/…` is "send"."""
    step, *more = request.path.removeprefix("/_matrix/client/v3/").split("/")
    return f"{request.method} {more[1] if step == 'rooms' else step}"
