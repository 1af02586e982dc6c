"""What the reader of event streams makes of every shape a backend sends, cut anywhere."""

import json
import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bot.core.chat import (
    Delta,
    FinishDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from bot.errors import ModelFailed, Truncated
from bot.llm.chunks import MOST_TOKENS
from bot.llm.sse import CompletionStream
from tests.deltas import finish_reasons, text_of

DONE = "data: [DONE]\n\n"


def event(**chunk: object) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def says(content: object, finish_reason: str | None = None, **rest: object) -> str:
    delta = {"content": content, **rest}
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])


def read(*pieces: bytes, longest: float = math.inf) -> tuple[list[Delta], str]:
    stream = CompletionStream(longest)
    deltas: list[Delta] = []
    try:
        for piece in pieces:
            deltas.extend(stream.feed(piece))
        stream.close()
    except (ModelFailed, Truncated) as error:
        return deltas, f"{type(error).__name__}: {error}"
    return deltas, "complete"


def cut(data: bytes, offsets: list[int]) -> list[bytes]:
    edges = [0, *sorted(offset % (len(data) + 1) for offset in offsets), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


RICH = (
    ": ping\n\nevent: message\nid: 1\n"
    + says("")
    + says("L'été\u2028à ")
    + says(None, reasoning_content="hidden")
    + says([{"type": "text", "text": "l'île 🏝"}, " !"])
    + 'data: {"choices": [\ndata:{"delta": {"content": "two lines"}}]}\n\n'
    + event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 5})
    + says("", "stop")
    + DONE
    + DONE
)
PIECES = st.sampled_from(
    [
        RICH,
        ": ping\n",
        "\n",
        "data\n",
        "data:\n\n",
        "error: no\n\n",
        'data: {"choices": [',
        says("é"),
        says("", "length"),
        event(choices=[], error={"message": "out of memory"}),
        DONE,
    ]
)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_stream_reads_the_same_wherever_it_is_cut(newline: str) -> None:
    data = RICH.replace("\n", newline).encode()

    whole = read(data)

    assert whole == (
        [
            TextDelta("L'été\u2028à "),
            ThinkingDelta("hidden"),
            TextDelta("l'île 🏝 !"),
            TextDelta("two lines"),
            UsageDelta(Usage(3, 5)),
            FinishDelta("stop"),
        ],
        "complete",
    )
    assert all(read(data[:at], data[at:]) == whole for at in range(len(data)))
    assert read(*(data[at : at + 1] for at in range(len(data)))) == whole


@settings(deadline=None)  # a slow machine is no failure
@given(st.lists(PIECES), st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 10**4)))
@example([says("é"), "data: {"], "\r\n", [60])
def test_broken_streams_read_the_same_wherever_they_are_cut(
    parts: list[str], newline: str, offsets: list[int]
) -> None:
    data = "".join(parts).replace("\n", newline).encode()

    assert read(*cut(data, offsets)) == read(data)


@settings(deadline=None)  # a slow machine is no failure
@given(st.binary() | st.binary().map(lambda data: b"data: " + data + b"\n\n"))
def test_bytes_of_any_kind_end_in_an_error_of_ours_unless_the_model_was_done(data: bytes) -> None:
    done = b"[DONE]" in data or b"finish_reason" in data

    assert done or read(data)[1] != "complete"


@pytest.mark.parametrize(
    ("content", "text"),
    [("a", "a"), (None, ""), (["a", {"text": "b"}], "ab"), ([{"type": "image"}], ""), ([], "")],
)
def test_content_is_a_string_null_or_a_list(content: object, text: str) -> None:
    assert read(f"{says(content)}{says('.')}{DONE}".encode())[0] == [
        *([TextDelta(text)] if text else []),
        TextDelta("."),
    ]


@pytest.mark.parametrize(
    ("delta", "thinking"),
    [
        ({"reasoning_content": "Hm."}, "Hm."),
        ({"reasoning": "Hm."}, "Hm."),
        ({"reasoning": "Hm.", "reasoning_content": "Hm."}, "Hm."),
        ({"content": [{"type": "thinking", "thinking": "Hm."}]}, "Hm."),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]},
            "Hm.",
        ),
        ({"content": [{"thinking": "H"}, {"thinking": ["m."]}]}, "Hm."),
        ({"reasoning": {"text": "Hm."}}, ""),
        ({"reasoning_content": None, "reasoning": ""}, ""),
        ({"content": [{"type": "thinking", "thinking": {"text": "Hm."}}]}, ""),
        ({"content": [{"type": "thinking", "thinking": None}]}, ""),
    ],
)
def test_thoughts_come_under_many_names(delta: Mapping[str, object], thinking: str) -> None:
    assert read(f"{event(choices=[{'delta': delta}])}{DONE}".encode()) == (
        [ThinkingDelta(thinking)] if thinking else [],
        "complete",
    )


CALL = {"index": 1, "id": "call_1", "type": "function"}


@pytest.mark.parametrize(
    ("calls", "deltas"),
    [
        (
            [CALL | {"function": {"name": "meteo", "arguments": ""}}],
            [ToolCallDelta(1, "call_1", "meteo", "")],
        ),
        ([{"index": 1, "function": {"arguments": "{"}}], [ToolCallDelta(1, "", "", "{")]),
        (
            [{"id": "a", "function": {"name": "f", "arguments": "{}"}}, {"id": "b"}],
            [ToolCallDelta(0, "a", "f", "{}"), ToolCallDelta(1, "b", "", "")],
        ),
        ([CALL | {"function": {"name": "meteo", "arguments": {"ville": "Brest"}}}], []),
        ([], []),
        (None, []),
        ("meteo", []),
    ],
)
def test_pieces_of_tool_calls_are_told_and_odd_ones_cost_nothing(
    calls: object, deltas: list[ToolCallDelta]
) -> None:
    stream = says("a", tool_calls=calls) + says(None, "tool_calls") + DONE
    told, end = read(stream.encode())

    assert [one for one in told if isinstance(one, ToolCallDelta)] == deltas
    assert (text_of(told), finish_reasons(told), end) == ("a", ["tool_calls"], "complete")


def test_only_the_first_choice_counts() -> None:
    choices = [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]

    assert read(f"{event(choices=choices)}{DONE}".encode()) == ([TextDelta("a")], "complete")


def test_unknown_fields_and_nulls_are_passed_over() -> None:
    odd = event(choices=None, usage=None, error=None, x_search=[{}]) + event(
        choices=[{"delta": None}]
    )

    assert read(f"{odd}{says('', '')}{DONE}".encode()) == ([], "complete")


def test_a_finish_reason_makes_a_stream_complete_without_done() -> None:
    assert read(says("a", "length").encode())[1] == "complete"


def test_done_makes_a_stream_complete_without_a_finish_reason() -> None:
    assert read(f"{says('a')}{DONE}{says('never read')}".encode()) == (
        [TextDelta("a")],
        "complete",
    )


THOUGHT = says(None, reasoning_content="abc")


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (says("a" * 10) + says("", "stop") + DONE, "a" * 10),
        (says("a" * 4) + THOUGHT + says("b" * 3, "stop"), "aaaabbb"),
        (says("a" * 3, "stop") + says("b" * 99) + says(None, reasoning="c" * 99), "aaa"),
    ],
)
def test_a_completion_as_long_as_one_may_be_is_whole(stream: str, words: str) -> None:
    deltas, end = read(stream.encode(), longest=10)

    assert text_of(deltas) == words
    assert finish_reasons(deltas) == ["stop"]
    assert end == "complete"


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (says("abc"), "abcabcabca"),
        (says("a" * 99), "a" * 10),
        (says([{"type": "text", "text": "abc"}]), "abcabcabca"),
        (says("ab", reasoning="é" * 4), "ab"),
        (says("", reasoning="abc"), ""),
        (says(None, reasoning={"text": "abc"}), ""),
        (says([{"type": "thinking", "thinking": [{"text": "abc"}]}]), ""),
        (says("a", reasoning="abc", reasoning_content="abc"), "aa"),
        (says("a", tool_calls=[{"function": {"arguments": "{}{"}}]), "aa"),
        (says(""), ""),
        (event(choices=[]), ""),
    ],
)
def test_a_longer_one_is_cut_where_it_is_too_long_and_nothing_more_is_read(
    chunk: str, words: str
) -> None:
    stream = CompletionStream(10)
    deltas = list(stream.feed((chunk * 20 + "data: nonsense\n\n").encode()))
    stream.close()

    assert text_of(deltas) == words
    assert finish_reasons(deltas) == ["length"]
    assert stream.done


def test_what_comes_behind_a_finish_reason_is_ignored_but_for_the_usage() -> None:
    behind = says("b") + says("c", "length") + event(choices=[], usage={"prompt_tokens": 3})

    assert read(f"{says('a', 'stop')}{behind}{DONE}".encode()) == (
        [TextDelta("a"), FinishDelta("stop"), UsageDelta(Usage(3, 0))],
        "complete",
    )


def test_a_completion_that_is_not_streamed_is_cut_as_well() -> None:
    message = {"choices": [{"message": {"content": "a" * 99}, "finish_reason": "stop"}]}

    assert list(CompletionStream(10).read_whole(json.dumps(message).encode())) == [
        TextDelta("a" * 10),
        FinishDelta("length"),
    ]


@pytest.mark.parametrize("tail", ["", "data: [DO", "data: [DONE]", ": [DONE]\n\n", says("", "")])
def test_any_other_end_is_a_truncation(tail: str) -> None:
    deltas, end = read(f"{says('a')}{tail}".encode())

    assert deltas == [TextDelta("a")]
    assert end.startswith("Truncated")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"message": "Failed to parse: the patient is ill"}, ""),
        ("the patient is ill", ""),
        ({"message": "x", "type": "server_error", "code": 500}, " (server_error, 500)"),
        ({"message": "x", "type": "the patient", "code": "is ill"}, ""),
        ({"message": "x", "param": "max_tokens", "code": None}, " (max_tokens)"),
    ],
)
def test_an_error_object_fails_after_the_words_before_it_without_its_own(
    error: object, told: str
) -> None:
    stream = says("a") + event(error=error)

    assert read(stream.encode()) == (
        [TextDelta("a")],
        f"ModelFailed: the stream holds an error{told}",
    )


@pytest.mark.parametrize(
    "chunk",
    [
        b'{"choices": [{"delta": {"content": "secret"}}',
        b'{"choices": [{"delta": {"content": "secret \xff"}}]}',
        b'{"choices": [{"delta": {"content": {"secret": 1}}}]}',
        b'["secret"]',
        b'{"secret": ' + b"[" * 100_000,
    ],
)
def test_a_malformed_chunk_fails_without_telling_its_words(chunk: bytes) -> None:
    with pytest.raises(ModelFailed) as failure:
        list(CompletionStream().feed(b"data: " + chunk + b"\n\n"))

    assert "secret" not in str(failure.value)
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__


def test_fastapis_detail_is_an_error_too() -> None:
    end = "ModelFailed: the stream holds an error"

    assert read(event(detail="the patient is ill").encode()) == ([], end)
    assert read(event(detail=[{"loc": ["body"]}]).encode()) == ([], end)


def test_each_usage_stands_for_the_ones_before_it() -> None:
    stream = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 1})
    stream += event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2})

    assert read(f"{stream}{DONE}".encode())[0][-1] == UsageDelta(Usage(3, 2))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens"]), inner)
        ),
    )
)
def test_no_usage_costs_the_words_beside_it(usage: object) -> None:
    stream = event(choices=[{"delta": {"content": "a"}}], usage=usage) + DONE
    deltas, end = read(stream.replace("Infinity", "1e999").encode("utf-8", "replace"))

    assert (deltas[0], end) == (TextDelta("a"), "complete")
    counted = [one.usage for one in deltas if isinstance(one, UsageDelta)]
    for count in (n for one in counted for n in (one.prompt_tokens, one.completion_tokens)):
        assert type(count) is int
        assert 0 <= count <= MOST_TOKENS


@pytest.mark.parametrize("count", [18446744073709551615, 1e300, MOST_TOKENS + 1, -1, 0.5])
def test_a_count_that_no_model_takes_is_none(count: float) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": count}

    assert read(f"{event(choices=[], usage=usage)}{DONE}".encode()) == ([], "complete")


@pytest.mark.parametrize("line", [b"data: aaaa", b"data: aaaa\n", b": aaaa"])
def test_an_event_without_end_is_refused_before_it_fills_the_memory(line: bytes) -> None:
    stream = CompletionStream()
    piece = line.ljust(16 * 1024, b"a") if not line.endswith(b"\n") else line * 1600
    fed = 0

    with pytest.raises(ModelFailed, match="more than 1048576 bytes"):  # noqa: PT012  # `fed` counts
        while fed < 5 * 1024 * 1024:
            list(stream.feed(piece))
            fed += len(piece)

    assert fed < 2 * 1024 * 1024


def test_comments_may_go_on_for_ever() -> None:
    stream = CompletionStream()

    for _ in range(100):
        assert list(stream.feed(b": ping\n" * 4096)) == []
