"""Rules of `tests/README.md` that a reader would not notice to be broken."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLASS = re.compile(r"^ *class (\w+)[:(\[]", re.MULTILINE)
PATCH_OF_A_PATH = re.compile(r"\.setattr\(\s*[\"']")


def modules(*folders: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every module in the folders."""
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            if "node_modules" not in path.parts:
                yield str(path.relative_to(ROOT)), path.read_text()


def test_a_class_of_the_tests_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for path, text in modules("bot", "tests"):
        for name in CLASS.findall(text):
            places[name].append(path)

    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert not [found for found in shared.values() if any("tests/" in one for one in found)]


def test_no_attribute_is_patched_by_a_dotted_path() -> None:
    assert [path for path, text in modules("tests") if PATCH_OF_A_PATH.search(text)] == []
