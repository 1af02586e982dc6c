"""Answers as a model writes them to public agents, with all that makes first words hard."""

from pathlib import Path
from typing import Final

_FILE = Path(__file__).with_suffix(".txt")  # a line of "%" stands between two of them

ANSWERS: Final = tuple(_FILE.read_text(encoding="utf-8").removesuffix("\n").split("\n%\n"))
