"""The definition of a campaign in YAML: its schema, and faults with their line and field."""

import re
from collections.abc import Iterator
from datetime import datetime, time
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

import structlog
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from bot.core.campaigns import Audience, Campaign, CampaignQuestion, Quiet
from bot.core.polls import MOST_ANSWERS, PollAnswer
from bot.core.readable import is_readable
from bot.ports.campaigns import CampaignLedger

_LONGEST = 20_000  # characters
_MOST_QUESTIONS = 20
_MOST_FAULTS = 20
_LATEST = 4_000_000_000.0  # seconds since the epoch: in the year 2096

# Characters that XML 1.0 does not allow, so that no picture of a chart could show them.
_INVALID_CHARACTER = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")

log = structlog.get_logger()


def _visible(text: str) -> str:
    if _INVALID_CHARACTER.search(text):
        raise PydanticCustomError("characters", "a character that nobody can see")
    return text


def _readable(text: str) -> str:
    if not is_readable(text):
        raise PydanticCustomError("unreadable", "nothing of it can be read")
    return text


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
Words = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=300),
    AfterValidator(_visible),
]
Text = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=4_000),
    AfterValidator(_visible),
    AfterValidator(_readable),
]


class Malformed(Exception):
    """A definition of a campaign has faults.

    Attributes:
        faults: the line (from 1; 0 for none), the field and the kind of each fault. The kind
            selects the sentence for the admins.
    """

    def __init__(self, faults: list["Fault"]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


Fault = tuple[int, str, str]  # line, field, pydantic's or YAML's kind of error


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise PydanticCustomError("timezone", "no such time zone")
    return name


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class _Question(_Part):
    question: Words
    type: Literal["choice", "scale", "text"] = "choice"
    answers: Annotated[list[Words], Field(min_length=2, max_length=MOST_ANSWERS)] | None = None

    @model_validator(mode="after")
    def _has_answers_where_it_offers_some(self) -> Self:
        if (self.answers is not None) != (self.type == "choice"):
            raise PydanticCustomError("answers", "a choice has answers, nothing else has")
        if self.type == "text":  # it is sent as Markdown, like the message
            _readable(self.question)
        if self.answers is not None and len(set(self.answers)) < len(self.answers):
            raise PydanticCustomError("answers_twice", "the same answer twice")
        return self


class _Audience(_Part):
    rooms: Literal["direct", "salons", "all"] = "direct"
    domains: list[Words] = []
    active_days: Annotated[int, Field(ge=1, le=3_650)] | None = None
    sample: Annotated[int, Field(ge=1, le=10_000_000)] | None = None


_SIXTY = 60
_CLOCK = re.compile(r"\d\d?:\d\d\Z")


def _clock(value: object) -> object:
    """Return the time of day; undo YAML 1.1, which reads 18:00 as the number 1080 (base 60)."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= _SIXTY:
        hours, minutes = divmod(value, _SIXTY)
        value = f"{hours:02}:{minutes:02}"
    if not isinstance(value, str | time) or (isinstance(value, str) and not _CLOCK.match(value)):
        raise PydanticCustomError("clock", "a time of day, as 18:00")
    return value


Clock = Annotated[time, BeforeValidator(_clock)]


class _Quiet(_Part):
    begin: Clock = time(18)
    end: Clock = time(9)
    weekend: bool = True


class _Campaign(_Part):
    name: Name
    message: Text | None = None
    questions: Annotated[list[_Question], Field(max_length=_MOST_QUESTIONS)] = []
    audience: _Audience = _Audience()
    begins: datetime | None = None
    ends: datetime | None = None
    timezone: Annotated[str, AfterValidator(_zone)] = "Europe/Paris"
    quiet: _Quiet | None = _Quiet()
    reminder_hours: Annotated[float, Field(ge=1, le=2_000)] | None = None
    per_minute: Annotated[float, Field(gt=0, le=600)] = 30.0
    notify: bool = True

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.message is None and not self.questions:
            raise PydanticCustomError("nothing", "neither a message nor a question")
        return self

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        begins, ends = self._moment(self.begins), self._moment(self.ends)
        if not all(0.0 <= (moment or 0.0) <= _LATEST for moment in (begins, ends)):
            raise PydanticCustomError("latest", "that is too far away")
        if begins is not None and ends is not None and ends <= begins:
            raise PydanticCustomError("ends", "it ends before it begins")
        return self

    def _moment(self, moment: datetime | None) -> float | None:
        """Return seconds since the epoch; a time without a zone is in the campaign's zone."""
        if moment is None:
            return None
        zone = moment.tzinfo or ZoneInfo(self.timezone)
        return moment.replace(tzinfo=zone).timestamp()

    def campaign(self) -> Campaign:
        quiet, zone = self.quiet, ZoneInfo(self.timezone)
        return Campaign(
            name=self.name,
            questions=tuple(
                _question(number, one) for number, one in enumerate(self.questions, 1)
            ),
            message=self.message or "",
            audience=Audience(
                self.audience.rooms,
                tuple(self.audience.domains),
                self.audience.active_days,
                self.audience.sample,
            ),
            begins_at=self._moment(self.begins),
            ends_at=self._moment(self.ends),
            quiet=None if quiet is None else Quiet(quiet.begin, quiet.end, zone, quiet.weekend),
            reminder_after=None if self.reminder_hours is None else self.reminder_hours * 3600,
            per_minute=self.per_minute,
            notifies=self.notify,
        )


def _question(number: int, one: _Question) -> CampaignQuestion:
    answers = tuple(PollAnswer(f"{key}", text) for key, text in enumerate(one.answers or (), 1))
    return CampaignQuestion(str(number), one.type, one.question, answers)


def read(text: str) -> Campaign:
    """Parse the definition of a campaign.

    Raises:
        Malformed: the text has faults; the error lists those that were found.
    """
    if len(text) > _LONGEST:
        raise Malformed([(0, "", "too_long")])
    try:
        # Aliases are refused: nested ones would take exponential time to resolve.
        if found := {
            _line_of(one) for one in yaml.parse(text) if isinstance(one, yaml.AliasEvent)
        }:
            raise Malformed([(line, "", "yaml") for line in sorted(found)[:_MOST_FAULTS]])
        node = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, AttributeError, LookupError) as error:
        # PyYAML raises the last two if a value does not fit its tag.
        mark = getattr(error, "problem_mark", None)
        raise Malformed([(mark.line + 1 if mark else 0, "", "yaml")]) from error
    if twice := list(_duplicates(node)):
        raise Malformed(twice[:_MOST_FAULTS])
    try:
        return _Campaign.model_validate(values).campaign()
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise Malformed([_fault(node, one) for one in details[:_MOST_FAULTS]]) from error


def _line_of(found: Any) -> int:  # noqa: ANN401  # PyYAML's nodes and events have no types
    return int(found.start_mark.line) + 1


def _duplicates(node: Any) -> Iterator[Fault]:  # noqa: ANN401  # as above
    """Yield a fault for each duplicate field; PyYAML would silently take the last one."""
    if isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _duplicates(one)
    elif isinstance(node, yaml.MappingNode):
        known = set[str]()
        for key, value in node.value:
            if str(key.value) in known:
                yield _line_of(key), str(key.value), "twice"
            known.add(str(key.value))
            yield from _duplicates(value)


def _fault(node: Any, detail: ErrorDetails) -> Fault:  # noqa: ANN401  # as above
    return _line_at(node, detail["loc"]), ".".join(map(str, detail["loc"])), detail["type"]


def _line_at(node: Any, path: tuple[int | str, ...]) -> int:  # noqa: ANN401  # as above
    """Return the line, from 1, of the deepest existing node on the path."""
    line = node.start_mark.line + 1 if node is not None else 0
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == step]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            found = [(one, one) for one in node.value[step : step + 1]]
        else:
            found = []
        if not found:
            break
        key, node = found[0]
        line = key.start_mark.line + 1
    return int(line)


async def find(ledger: CampaignLedger, name: str) -> Campaign | None:
    """Return a campaign of the ledger; None if there is none, or it cannot be read any more."""
    definition = await ledger.definition(name)
    if definition is None:
        return None
    try:
        return read(definition)
    except Malformed as error:  # another version of the bot could read it
        log.error("campaign not read", campaign=name, reason=str(error))  # noqa: TRY400  # a traceback may hold its text
        return None
