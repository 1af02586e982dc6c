"""Proves the fault_proxy, before a server that counts what reaches it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus

import aiohttp
import pytest
import pytest_asyncio

from tests.harness.client_view import JSON
from tests.harness.fault_proxy import Deed, FaultProxy
from tests.harness.model import ScriptedAnswer, ScriptedModel

ASK = ("POST", "/completions$")
STORMY: Sequence[Deed] = ("refuse", "cut", "break", "answer", "replay", "repeat")


@pytest_asyncio.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest_asyncio.fixture
async def fault_proxy(model: ScriptedModel) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(model.url.removesuffix("/v1")) as running:
        yield running


@pytest_asyncio.fixture
async def http(fault_proxy: FaultProxy) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(fault_proxy.url) as session:
        yield session


async def ask(http: aiohttp.ClientSession, prompt: str) -> tuple[int, str]:
    """Return the status and the body of the answer."""
    body = {"model": "scripted", "messages": [{"role": "user", "content": prompt}]}
    async with http.post("/v1/chat/completions", json=body) as response:
        return response.status, await response.text()


async def received(response: aiohttp.ClientResponse) -> bytes:
    """Return what comes of the body until the connection breaks."""
    got = b""
    try:
        while True:
            got += await response.content.readexactly(1)
    except aiohttp.ClientPayloadError:
        return got


def heard(model: ScriptedModel) -> list[str]:
    """Return the prompts that have reached the server, in order."""
    return [exchange.prompt for exchange in model.exchanges]


async def test_what_no_rule_is_about_passes_as_it_is(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    with (
        fault_proxy.rule("GET", "/completions$", "answer"),
        fault_proxy.rule("POST", "/x", "answer"),
    ):
        status, answer = await ask(http, "hello")

    async with (
        http.get("/v1/models?a=b%2Fc") as through,
        aiohttp.request("GET", f"{model.url}/models") as direct,
    ):
        assert await through.read() == await direct.read()
        assert through.content_type == direct.content_type
    assert status == HTTPStatus.OK
    assert "[DONE]" in answer
    assert model.exchanges[0].headers["Content-Type"] == "application/json"


async def test_requests_are_counted_with_what_was_in_them(
    fault_proxy: FaultProxy, http: aiohttp.ClientSession
) -> None:
    with fault_proxy.rule(*ASK, "count") as rule:
        await ask(http, "hello")
        await rule.met()

    await ask(http, "after the rule")

    assert [request["messages"][0]["content"] for request in rule.requests] == ["hello"]
    assert rule.statuses == [HTTPStatus.OK]


async def test_an_answer_in_place_of_the_servers_is_given_as_often_as_said(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    busy = {"errcode": "M_BUSY"}
    with fault_proxy.rule(*ASK, "answer", times=2, status=503, body=busy) as rule:
        answers = [await ask(http, prompt) for prompt in ("one", "two", "three")]

    assert answers[:2] == [(503, '{"errcode": "M_BUSY"}')] * 2
    assert answers[2][0] == HTTPStatus.OK
    assert heard(model) == ["three"]
    assert rule.statuses == [503, 503]


async def test_a_request_that_is_held_goes_on_at_its_release(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    async with asyncio.TaskGroup() as tasks:
        with fault_proxy.rule(*ASK, "hold") as rule:
            asking = tasks.create_task(ask(http, "hello"))
            await rule.met()
            assert heard(model) == []

    assert asking.result()[0] == HTTPStatus.OK
    assert heard(model) == ["hello"]


async def test_requests_that_are_postponed_go_on_in_their_order(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    prompts = [f"number {number}" for number in range(20)]
    with fault_proxy.rule(*ASK, "postpone") as rule:
        answers = [await ask(http, prompt) for prompt in prompts]
        assert heard(model) == []
        rule.release()
        for _ in prompts:
            await model.asked()

    assert answers == [(HTTPStatus.OK, "{}")] * 20
    assert heard(model) == prompts


async def test_an_answer_that_is_withheld_comes_at_its_release(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    async with asyncio.TaskGroup() as tasks:
        with fault_proxy.rule(*ASK, "withhold") as rule:
            asking = tasks.create_task(ask(http, "hello"))
            await rule.met()
            assert heard(model) == ["hello"]
            assert not asking.done()

    assert asking.result()[0] == HTTPStatus.OK


async def test_a_connection_that_is_cut_has_done_its_work(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    with (
        fault_proxy.rule(*ASK, "cut", times=1),
        pytest.raises(aiohttp.ClientConnectionError),
    ):
        await ask(http, "hello")

    assert heard(model) == ["hello"]


async def test_a_stream_passes_as_it_comes(
    model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    gate = asyncio.Event()
    model.next(ScriptedAnswer(text="one two three", after=1, gate=gate))
    body = {"model": "scripted", "messages": [{"role": "user", "content": "count"}]}

    async with asyncio.timeout(10), http.post("/v1/chat/completions", json=body) as response:
        before = await response.content.readuntil(b'"one')
        gate.set()
        after = await response.content.read()

    assert b"two" not in before
    assert b"three" in after


async def test_a_stream_that_breaks_off_at_the_server_breaks_off_here(
    model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    model.next(ScriptedAnswer(text="one two three", mode="close", after=1))

    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(http, "count")


async def test_a_request_that_is_delayed_goes_on_after_that_time(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    begun = time.monotonic()
    with fault_proxy.rule(*ASK, "delay", seconds=0.2) as rule:
        status, _ = await ask(http, "hello")

    assert model.exchanges[0].arrived - begun >= 0.2
    assert rule.statuses == [status] == [HTTPStatus.OK]


async def test_a_request_that_is_refused_never_comes(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    with (
        fault_proxy.rule(*ASK, "refuse", times=1) as rule,
        pytest.raises(aiohttp.ClientConnectionError),
    ):
        await ask(http, "hello")

    assert heard(model) == []
    assert len(rule.requests) == 1


async def test_an_answer_breaks_off_after_so_many_bytes(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    model.next(ScriptedAnswer(text="one two three"))
    body = {"model": "scripted", "messages": [{"role": "user", "content": "count"}]}
    with fault_proxy.rule(*ASK, "break", size=40):
        async with http.post("/v1/chat/completions", json=body) as response:
            got = await received(response)

    assert len(got) == 40
    assert got.startswith(b"data: {")


@pytest.mark.parametrize(
    ("status", "body", "text", "kind"),
    [
        (502, "<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>", "text/html"),
        (504, "", "", "text/html"),
        (429, {"errcode": "M_LIMIT_EXCEEDED"}, '{"errcode": "M_LIMIT_EXCEEDED"}', None),
    ],
)
async def test_what_stands_before_a_server_answers_in_its_own_way(
    fault_proxy: FaultProxy,
    http: aiohttp.ClientSession,
    status: int,
    body: JSON | str,
    text: str,
    kind: str | None,
) -> None:
    with fault_proxy.rule("GET", "/models", "answer", status=status, body=body):
        async with http.get("/v1/models") as response:
            answer = response.status, await response.text(), response.content_type

    assert answer == (status, text, kind or "application/json")


async def test_a_request_that_is_replayed_comes_twice_and_is_answered_once(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    model.next(ScriptedAnswer(text="first"), ScriptedAnswer(text="second"))
    with fault_proxy.rule(*ASK, "replay", times=1):
        status, answer = await ask(http, "hello")

    assert heard(model) == ["hello", "hello"]
    assert status == HTTPStatus.OK
    assert "second" in answer
    assert "first" not in answer


async def test_an_answer_that_is_repeated_comes_to_the_request_after_its_own(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    model.next(*(ScriptedAnswer(text=text) for text in ("first", "second", "third")))
    with fault_proxy.rule(*ASK, "repeat", times=1):
        answers = [await ask(http, prompt) for prompt in ("one", "two", "three")]

    assert heard(model) == ["one", "three"]
    assert answers[0] == answers[1]
    assert "second" in answers[2][1]


async def rough(http: aiohttp.ClientSession, fault_proxy: FaultProxy, seed: int) -> Sequence[Deed]:
    """Ask through a storm; return what it did."""
    with fault_proxy.storm(*ASK, dict.fromkeys(STORMY, 0.15), seed=seed) as storm:
        for number in range(30):
            try:
                await ask(http, f"number {number}")
            except aiohttp.ClientError:
                continue
    return storm.done


async def test_a_storm_is_the_same_again_from_the_same_seed(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    first = await rough(http, fault_proxy, seed=1)
    count = len(model.exchanges)
    again = await rough(http, fault_proxy, seed=1)
    other = await rough(http, fault_proxy, seed=2)

    assert first == again != other
    assert set(first) == set(STORMY)
    assert 0 < count < 60
    assert (await ask(http, "after the storm"))[0] == HTTPStatus.OK


async def test_a_storm_leaves_other_requests_alone_and_rules_go_before_it(
    fault_proxy: FaultProxy, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    with (
        fault_proxy.storm(*ASK, {"refuse": 1.0}, seed=0),
        fault_proxy.rule(*ASK, "answer", status=503, body={}),
    ):
        status, answer = await ask(http, "hello")
        async with http.get("/v1/models") as models:
            assert models.status == HTTPStatus.OK

    assert (status, json.loads(answer)) == (503, {})
    assert heard(model) == []


async def test_a_server_that_is_away_is_a_bad_gateway(
    model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    await model.stop()

    assert await ask(http, "hello") == (HTTPStatus.BAD_GATEWAY, "")
