"""One OpenAIModel, asked one thing: what its tests share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bot.core.chat import Delta, text_turn
from bot.core.model_catalog import ModelCard
from bot.errors import CompletionError
from bot.llm.client import OpenAIModel

KEY = "sk-0123456789abcdef0123456789"
PROMPT = "Summarise the confidential note of 3 March"
CARD = ModelCard(
    id="albert-small",
    label="Albert Small",
    key="small",
    context_length=32_000,
    max_tokens=90,
    temperature=None,
)
TURNS = (text_turn("system", "Be brief."), text_turn("user", PROMPT))


@asynccontextmanager
async def connected(
    base_url: str,
    *,
    api_key: str | None = KEY,
    patience: float = 5.0,
    proxy: str | None = None,
    ca_bundle: Path | None = None,
) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel(
        base_url=base_url,
        api_key=api_key,
        connect_timeout=patience,
        stall_timeout=patience,
        proxy=proxy,
        ca_bundle=ca_bundle,
    )
    try:
        yield model
    finally:
        await model.close()


async def ask(model: OpenAIModel, card: ModelCard = CARD) -> list[Delta]:
    return [delta async for delta in model.stream(TURNS, card)]


async def fail(model: OpenAIModel) -> CompletionError:
    with pytest.raises(CompletionError) as failure:
        await ask(model)
    return failure.value
