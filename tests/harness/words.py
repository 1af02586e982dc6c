"""Writes a list of all sentences of the bot in both languages, for review.

`make words` runs it; the list is `artefacts/words.md`.
"""

import html
import re
import sys
from pathlib import Path
from typing import Final

from bot import dashboard
from bot.dashboard.pages import WORDS
from bot.i18n.texts import speak
from bot.reporting.charts import NO_DATA
from bot.reporting.formats import MORE_THAN

LIST: Final = Path(__file__).parents[2] / "artefacts" / "words.md"

_TEMPLATES: Final = Path(dashboard.__path__[0]) / "templates"
_CODE: Final = re.compile(r"{%.*?%}|{#.*?#}|<[^>]*>", re.DOTALL)
_SHOWN: Final = re.compile(r"[^\W\d_]{2}")
_VALUE: Final = re.compile(r'{{[^"{}]*}}')  # a filled in value, without words of its own


def listed() -> str:
    """Return the list as Markdown: for each key the French sentence, then the English one."""
    french, english = speak("fr"), speak("en")
    parts = ["# What the bot says"]
    for key in french.forms:
        said = [f"## {key}"]
        for texts in (french, english):
            forms = dict.fromkeys(texts.forms[key])  # each different form of a plural
            said += [f"**{texts.language}**", *(_quoted(form) for form in forms)]
        parts.append("\n\n".join(said))
    parts.append("# What its pages and charts say, in French but for charts in a room")
    parts.append("\n".join(f"- {words}" for words in _of_pages()))
    return "\n\n".join(parts) + "\n"


def _quoted(form: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in form.split("\n"))


def _of_pages() -> list[str]:
    words = [*NO_DATA.values(), *MORE_THAN.values(), *WORDS]
    for path in sorted(_TEMPLATES.glob("*.html")):
        lines = (line.strip() for line in _CODE.sub("\n", path.read_text()).split("\n"))
        words += [html.unescape(line) for line in lines if _SHOWN.search(_VALUE.sub("", line))]
    return list(dict.fromkeys(words))


if __name__ == "__main__":
    LIST.parent.mkdir(exist_ok=True)
    LIST.write_text(listed())
    sys.stdout.write(f"{len(speak('fr').forms)} sentences in two languages: {LIST}\n")
