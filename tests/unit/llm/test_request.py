"""What becomes of each kind of turn on the wire."""

import pytest

from bot.core.chat import (
    FilePart,
    ImagePart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    text_turn,
)
from bot.llm.request import messages

IMAGE = ImagePart("data:image/png;base64,iVBORw0=")
FILE = FilePart("note.pdf", "data:application/pdf;base64,JVBERg==")
CALL = ToolCallPart("call_1", "meteo", '{"ville": "Brest"}')
IMAGE_SENT = {"type": "image_url", "image_url": {"url": IMAGE.url, "detail": "auto"}}
FILE_SENT = {"type": "file", "file": {"filename": "note.pdf", "file_data": FILE.file_data}}
CALL_SENT = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "meteo", "arguments": '{"ville": "Brest"}'},
}


def told(call_id: str, content: str) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


@pytest.mark.parametrize(
    ("turn", "sent"),
    [
        (text_turn("system", "Sobre."), [{"role": "system", "content": "Sobre."}]),
        (text_turn("user", ""), [{"role": "user", "content": ""}]),
        (
            Turn("user", (TextPart("Un"), TextPart("Deux"))),
            [{"role": "user", "content": "Un\n\nDeux"}],
        ),
        (
            Turn("user", (TextPart("Que vois-tu ?"), IMAGE, FILE)),
            [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Que vois-tu ?"}, IMAGE_SENT, FILE_SENT],
                }
            ],
        ),
        (Turn("user", (IMAGE,)), [{"role": "user", "content": [IMAGE_SENT]}]),
        (
            Turn("assistant", (CALL,)),
            [{"role": "assistant", "content": None, "tool_calls": [CALL_SENT]}],
        ),
        (
            Turn("assistant", (TextPart("Je regarde."), CALL)),
            [{"role": "assistant", "content": "Je regarde.", "tool_calls": [CALL_SENT]}],
        ),
        (
            Turn("tool", (ToolResultPart("call_1", "12 °C"), ToolResultPart("call_2", "{}"))),
            [told("call_1", "12 °C"), told("call_2", "{}")],
        ),
        (Turn("user", ()), []),
    ],
)
def test_a_turn_becomes_the_messages_of_the_api(turn: Turn, sent: list[object]) -> None:
    assert messages([turn]) == sent
