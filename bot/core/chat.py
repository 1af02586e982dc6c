"""A chat with a model: the turns of a request, and the deltas of its completion.

The words are those of the OpenAI API. Request and stream are described at
https://platform.openai.com/docs/api-reference/chat/create and
https://platform.openai.com/docs/api-reference/chat/streaming; "chunk" below is the
`chat.completion.chunk` object of the latter. Only `bot.llm` knows how they look on the wire.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bot.core.model_catalog import ModelCard

_GAP = "\n\n"  # between texts that are joined


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text: a content part of type "text".

    Attributes:
        text: the part's `text`.
    """

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a user's turn: a content part of type "image_url".

    Attributes:
        url: the `image_url.url`; the image itself as a `data:` URL, or where the backend finds it.
        detail: the `image_url.detail`, how finely the model looks at it.
    """

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file in a user's turn: a content part of type "file".

    Attributes:
        filename: the `file.filename`.
        file_data: the `file.file_data`, the content as a `data:` URL in base64.
    """

    filename: str
    file_data: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call of a function by the model: an entry of an assistant message's `tool_calls`.

    Attributes:
        id: the call's `id`, which its result repeats.
        name: the `function.name`.
        arguments: the `function.arguments`, JSON as the model wrote it: it may be invalid.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """The result of a tool call: one message of role "tool".

    Attributes:
        tool_call_id: the message's `tool_call_id`, the `id` of the call.
        content: the message's `content`.
    """

    tool_call_id: str
    content: str


TurnPart = TextPart | ImagePart | FilePart | ToolCallPart | ToolResultPart


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the request: what one role says before another one does.

    Attributes:
        role: the message's `role`. An assistant's turn has text and tool calls, a tool's turn has
            results, a user's turn has text, images and files.
        parts: what it is made of, in order.
    """

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[TurnPart, ...]

    @property
    def text(self) -> str:
        """The text parts alone, joined by a blank line; "" where there are none."""
        return _GAP.join([part.text for part in self.parts if isinstance(part, TextPart)])


def text_turn(role: Literal["system", "user", "assistant"], text: str) -> Turn:
    """Return a turn of one text part."""
    return Turn(role, (TextPart(text),))


def join_parts(turns: Iterable[Turn]) -> tuple[TurnPart, ...]:
    """Return the parts of all turns; text parts that follow each other become one."""
    joined: list[TurnPart] = []
    texts: list[str] = []

    def end_text() -> None:
        if texts:
            joined.append(TextPart(_GAP.join(texts)))
            texts.clear()

    for turn in turns:
        for part in turn.parts:
            if isinstance(part, TextPart):
                texts.append(part.text)
            else:
                end_text()
                joined.append(part)
    end_text()
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the backend counted for one completion: the chunk's `usage`."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the text: `choices[0].delta.content`.

    Attributes:
        text: to append to the text so far; never "".
    """

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """The next piece of the model's reasoning, which is no part of the text.

    The OpenAI API does not stream it. Others do, as `choices[0].delta.reasoning_content`
    (https://api-docs.deepseek.com/guides/reasoning_model), as `reasoning`
    (https://docs.vllm.ai/en/latest/features/reasoning_outputs/), or as content parts of type
    "thinking" (https://docs.mistral.ai/capabilities/reasoning).

    Attributes:
        text: to append to the reasoning so far; never "".
    """

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: an entry of `choices[0].delta.tool_calls`.

    Attributes:
        index: the entry's `index`: which of the completion's calls it belongs to.
        id: the call's `id`, in its first piece; "" in the others.
        name: the `function.name`, in the first piece; "" in the others.
        arguments: to append to the call's `function.arguments` so far; possibly "".
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class FinishDelta:
    """The model is done: `choices[0].finish_reason`.

    Attributes:
        reason: "stop", "length", "content_filter", "tool_calls"; some backends have other words.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """The backend's count of the tokens so far; each one replaces the one before."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class FallbackDelta:
    """Another model answers from here on. The bot says so itself; no `Model.stream` yields it.

    Attributes:
        card: the model that answers.
        instead_of: the model that was asked first, and cannot answer.
    """

    card: ModelCard
    instead_of: ModelCard


Delta = TextDelta | ThinkingDelta | ToolCallDelta | FinishDelta | UsageDelta | FallbackDelta
