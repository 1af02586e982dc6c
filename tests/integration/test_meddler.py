"""Proves the meddler, before a server that counts what reaches it."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus

import aiohttp
import pytest
import pytest_asyncio

from tests.stand.meddler import Meddler
from tests.stand.model import ScriptedModel

ASK = ("POST", "/completions$")


@pytest_asyncio.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as running:
        yield running


@pytest_asyncio.fixture
async def meddler(model: ScriptedModel) -> AsyncIterator[Meddler]:
    async with Meddler(model.url.removesuffix("/v1")) as running:
        yield running


@pytest_asyncio.fixture
async def http(meddler: Meddler) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(meddler.url) as session:
        yield session


async def ask(http: aiohttp.ClientSession, prompt: str) -> tuple[int, str]:
    """Return the status and the body of the answer."""
    body = {"model": "scripted", "messages": [{"role": "user", "content": prompt}]}
    async with http.post("/v1/chat/completions", json=body) as response:
        return response.status, await response.text()


def heard(model: ScriptedModel) -> list[str]:
    """Return the prompts that have reached the server, in order."""
    return [exchange.prompt for exchange in model.exchanges]


async def test_what_no_rule_is_about_passes_as_it_is(
    meddler: Meddler, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    with meddler.rule("GET", "/completions$", "answer"), meddler.rule("POST", "/x", "answer"):
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
    meddler: Meddler, http: aiohttp.ClientSession
) -> None:
    with meddler.rule(*ASK, "count") as rule:
        await ask(http, "hello")
        await rule.met()

    await ask(http, "after the rule")

    assert [request["messages"][0]["content"] for request in rule.requests] == ["hello"]
    assert rule.statuses == [HTTPStatus.OK]


async def test_an_answer_in_place_of_the_servers_is_given_as_often_as_said(
    meddler: Meddler, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    busy = {"errcode": "M_BUSY"}
    with meddler.rule(*ASK, "answer", times=2, status=503, body=busy) as rule:
        answers = [await ask(http, prompt) for prompt in ("one", "two", "three")]

    assert answers[:2] == [(503, '{"errcode": "M_BUSY"}')] * 2
    assert answers[2][0] == HTTPStatus.OK
    assert heard(model) == ["three"]
    assert rule.statuses == [503, 503]


async def test_a_request_that_is_held_goes_on_at_its_release(
    meddler: Meddler, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    async with asyncio.TaskGroup() as tasks:
        with meddler.rule(*ASK, "hold") as rule:
            asking = tasks.create_task(ask(http, "hello"))
            await rule.met()
            assert heard(model) == []

    assert asking.result()[0] == HTTPStatus.OK
    assert heard(model) == ["hello"]


async def test_requests_that_are_postponed_go_on_in_their_order(
    meddler: Meddler, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    prompts = [f"number {number}" for number in range(20)]
    with meddler.rule(*ASK, "postpone") as rule:
        answers = [await ask(http, prompt) for prompt in prompts]
        assert heard(model) == []
        rule.release()
        for _ in prompts:
            await model.asked()

    assert answers == [(HTTPStatus.OK, "{}")] * 20
    assert heard(model) == prompts


async def test_an_answer_that_is_withheld_comes_at_its_release(
    meddler: Meddler, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    async with asyncio.TaskGroup() as tasks:
        with meddler.rule(*ASK, "withhold") as rule:
            asking = tasks.create_task(ask(http, "hello"))
            await rule.met()
            assert heard(model) == ["hello"]
            assert not asking.done()

    assert asking.result()[0] == HTTPStatus.OK


async def test_a_connection_that_is_cut_has_done_its_work(
    meddler: Meddler, model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    with (
        meddler.rule(*ASK, "cut", times=1),
        pytest.raises(aiohttp.ClientConnectionError),
    ):
        await ask(http, "hello")

    assert heard(model) == ["hello"]


async def test_a_server_that_is_away_is_a_bad_gateway(
    model: ScriptedModel, http: aiohttp.ClientSession
) -> None:
    await model.stop()

    assert await ask(http, "hello") == (HTTPStatus.BAD_GATEWAY, "")
