"""Writes every sentence that the bot can say, in both languages, to be read through.

`make words` runs it; the list is `artefacts/words.md`.
"""

import sys
from pathlib import Path
from typing import Final

from bot.texts import speak

LIST: Final = Path(__file__).parents[2] / "artefacts" / "words.md"


def listed() -> str:
    """Return the list as Markdown: for each key what is said in French, then in English."""
    french, english = speak("fr"), speak("en")
    parts = ["# What the bot says"]
    for key in french.forms:
        said = [f"## {key}"]
        for texts in (french, english):
            forms = dict.fromkeys(texts.forms[key])  # of a plural, each that differs
            said += [f"**{texts.language}**", *(_quoted(form) for form in forms)]
        parts.append("\n\n".join(said))
    return "\n\n".join(parts) + "\n"


def _quoted(form: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in form.split("\n"))


if __name__ == "__main__":
    LIST.parent.mkdir(exist_ok=True)
    LIST.write_text(listed())
    sys.stdout.write(f"{len(speak('fr').forms)} sentences in two languages: {LIST}\n")
