"""The turns of a request as the OpenAI API's `messages`.

https://platform.openai.com/docs/api-reference/chat/create
"""

from collections.abc import Iterator, Sequence
from typing import assert_never

from bot.core.chat import (
    FilePart,
    ImagePart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
)

Json = dict[str, object]


def messages(turns: Sequence[Turn]) -> list[Json]:
    """Return the request's messages: one for each turn, and one for each result of a tool.

    The content of a turn that has only text is a plain string: not every backend takes a list.
    """
    return [message for turn in turns for message in _messages_of(turn)]


def _messages_of(turn: Turn) -> Iterator[Json]:
    contents: list[Json] = []
    calls: list[Json] = []
    for part in turn.parts:
        match part:
            case TextPart(text):
                contents.append({"type": "text", "text": text})
            case ImagePart(url, detail):
                image = {"url": url, "detail": detail}
                contents.append({"type": "image_url", "image_url": image})
            case FilePart(filename, file_data):
                file = {"filename": filename, "file_data": file_data}
                contents.append({"type": "file", "file": file})
            case ToolCallPart(call_id, name, arguments):
                function = {"name": name, "arguments": arguments}
                calls.append({"id": call_id, "type": "function", "function": function})
            case ToolResultPart(tool_call_id, content):
                yield {"role": "tool", "tool_call_id": tool_call_id, "content": content}
            case _:
                assert_never(part)
    if contents or calls:
        yield _message(turn, contents, calls)


def _message(turn: Turn, contents: list[Json], calls: list[Json]) -> Json:
    plain = all(content["type"] == "text" for content in contents)
    message: Json = {"role": turn.role, "content": turn.text if plain else contents}
    if calls:
        message["tool_calls"] = calls
        if not contents:
            message["content"] = None
    return message
