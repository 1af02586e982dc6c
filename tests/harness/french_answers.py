"""Answers of a model to public agents in French, with openings that are hard to cut."""

from pathlib import Path
from typing import Final

_FILE = Path(__file__).with_suffix(".txt")  # a line of "%" separates two answers

ANSWERS: Final = tuple(_FILE.read_text(encoding="utf-8").removesuffix("\n").split("\n%\n"))
