"""No word of a conversation in a file of the bot: every stop of every bot searches for them."""

import json
from pathlib import Path

import pytest

from bot.matrix.parse import MARKER
from tests.harness import canaries
from tests.harness.bot import Bot, Launch
from tests.harness.model import ScriptedAnswer, ScriptedModel
from tests.harness.person import Person
from tests.harness.synapse import Synapse

SAID = 'Le canari « 1848 »\ta dit "non". Puis il se tut, déjà.'
FIRST, SECOND = 'Le canari « 1848 »\ta dit "non".', "Puis il se tut, déjà."


@pytest.mark.parametrize(
    "content",
    [
        FIRST.encode(),
        SECOND.encode(),
        json.dumps({"body": SAID}).encode(),
        json.dumps({"body": f"{FIRST} Puis il"}, ensure_ascii=False).encode(),
        b"\x00\xff" + SECOND.encode() + b"\x00",
    ],
)
def test_what_was_said_is_found_in_a_file_however_it_is_written(
    tmp_path: Path, content: bytes
) -> None:
    canaries.remember(SAID)
    path = tmp_path / "data" / "matrix" / "crypto.db-wal"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)

    with pytest.raises(canaries.Leaked, match=r"crypto\.db-wal at byte \d+: [0-9a-f]{12}") as told:
        canaries.search(tmp_path)

    assert "canari" not in str(told.value)
    assert "Puis" not in str(told.value)


def test_an_edit_is_found_without_its_star_and_short_words_are_left_out(tmp_path: Path) -> None:
    canaries.remember("* Un canari corrigé")
    canaries.remember("!aide")
    (tmp_path / "help").write_text("!aide")
    canaries.search(tmp_path)

    (tmp_path / "ledger.db").write_text("Un canari corrigé")
    with pytest.raises(canaries.Leaked, match=r"ledger\.db at byte 0"):
        canaries.search(tmp_path / "ledger.db")


@pytest.mark.asyncio(loop_scope="session")
async def test_a_text_in_a_log_fails_the_test_that_stops_the_bot(
    tmp_path: Path, synapse: Synapse, model: ScriptedModel, launch: Launch, nia: Person
) -> None:
    asked, answered = "Où va le canari ?", "Le canari s'en va au charbon."
    malformed = "Un canari que matrix-nio imprime."
    canaries.remember(malformed)
    model.when(asked, ScriptedAnswer(text=answered))
    assistant = await synapse.register("talkative", "secret")
    matrix = {"homeserver": synapse.url, "user_id": assistant, "password": "secret"}
    settings = {"base_url": model.url, "name": "scripted"}
    async with Bot(tmp_path, assistant, launch, matrix=matrix, model=settings) as bot:
        room_id = await nia.open_direct_message(assistant)
        await nia.wait_joined(room_id, assistant)
        await nia.send_event(room_id, "m.room.message", {"body": malformed})
        await nia.send(room_id, asked)
        await nia.wait_for_message(room_id, lambda seen: MARKER in seen.content)
        await bot.restart()  # nothing to be found

        with bot.log.open("a") as log:
            log.write(json.dumps({"event": "said", "texts": [asked, answered]}) + "\n")

        with pytest.raises(canaries.Leaked, match=r"bot\.log") as told:
            await bot.stop()

    assert len(str(told.value).splitlines()) == 3
    assert "canari" not in str(told.value)
