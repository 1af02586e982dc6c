"""Rules of `tests/README.md` that a reader would not notice to be broken."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def nodes(*folders: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield every node of every module in the folders, with the module's path."""
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            if "node_modules" not in path.parts:
                for node in ast.walk(ast.parse(path.read_text())):
                    yield str(path.relative_to(ROOT)), node


def test_a_class_of_the_tests_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for path, node in nodes("bot", "tests"):
        if isinstance(node, ast.ClassDef):
            places[node.name].append(path)

    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert not [found for found in shared.values() if any("tests/" in one for one in found)]


def test_no_attribute_is_patched_by_a_dotted_path() -> None:
    patched = [
        f"{path}:{node.lineno}"
        for path, node in nodes("tests")
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "setattr"
        and isinstance(node.args[0], ast.Constant)
    ]

    assert patched == []
