"""What code, tests and documents cite exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
CITED_TESTS = sorted(
    set(re.findall(r"`(?:tests/)?((?:\w+/)+test_\w+\.py)(?:::([\w:]+))?`", RELIABILITY))
)
PROMISE = re.compile(r"(?<![\w-])R\d{1,2}(?![\w-])")
WRITTEN_BY_TARGETS = {"words.md"}
FOLDERS = "bot", "tests", "bench"


def sources() -> Iterator[tuple[Path, str]]:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            if "node_modules" not in path.parts:
                yield path, path.read_text()


def names(path: Path) -> set[str]:
    """Return the names of a file's functions and methods."""
    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in nodes if isinstance(node, kinds)}


@pytest.mark.parametrize(("path", "name"), CITED_TESTS)
def test_a_test_that_the_page_of_promises_cites_is_there(path: str, name: str) -> None:
    file = ROOT / "tests" / path

    assert file.is_file()
    assert not name or name.rpartition("::")[2] in names(file)


def test_a_promise_that_code_or_a_test_cites_is_there() -> None:
    promised = set(re.findall(r"^\| (R\d+) \|", RELIABILITY, re.MULTILINE))
    cited = {
        number
        for _, text in sources()
        for line in text.split("\n")
        if "#" in line
        for number in PROMISE.findall(line.rpartition("#")[2])
    }

    assert cited <= promised


def test_a_page_that_code_a_test_or_a_page_cites_is_there() -> None:
    pages = [
        (path, path.read_text()) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
    ]
    missing = {
        (str(path.relative_to(ROOT)), cited)
        for path, text in (*sources(), *pages)
        for cited in re.findall(r"(?<![\w/{-])(?:docs/)?[\w-]+\.md\b", text)
        if not any((folder / cited).is_file() for folder in (ROOT, ROOT / "docs", path.parent))
    }

    assert {cited for _, cited in missing} <= WRITTEN_BY_TARGETS, missing


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_a_file_or_folder_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    files = {str(path.relative_to(ROOT)) for path, _ in sources()}
    modules = set(re.findall(r"[\w/.-]*\w+\.py\b", text))
    folders = set(re.findall(r"`((?:bot|tests|docs)/[\w/]*)`", text))

    assert modules
    assert {
        one for one in modules if not any(f"/{file}".endswith(f"/{one}") for file in files)
    } == set()
    assert {one for one in folders if not (ROOT / one).exists()} == set()
