"""A short run of kills, as `make chaos` makes long ones."""

from pathlib import Path

import pytest

from tests.chaos.run import run

_SEED = 1


@pytest.mark.e2e
@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(8, marks=pytest.mark.timeout(240)),
        pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
async def test_each_prompt_has_its_one_answer_however_often_the_bot_is_killed(
    tmp_path: Path, kills: int
) -> None:
    report = await run(tmp_path, kills, _SEED)

    said = "\n".join([*report.kills(), *report.faults(), *report.figures()])
    assert report.conclusion == "lost 0 duplicated 0 stuck 0", said
    assert report.fine, said
    assert len(report.lives) == kills + 1
