"""The HTML pages: their templates, their texts, and the security headers of responses."""

import math
from collections.abc import Mapping
from datetime import date
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bot.core.feedback import REASONS
from bot.core.statistics import LEAST, OTHERS, Figures, answered, quantile, rated, satisfaction
from bot.i18n.texts import speak
from bot.reporting.formats import formats
from bot.reporting.reports import PERIODS, nine_in_ten

FOLDER: Final = Path(__file__).parent
TEXTS: Final = speak("fr")  # the pages exist in French only
FRENCH: Final = formats("fr")

# Nothing from other hosts, no script, no framing (Content Security Policy Level 3).
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # Not "no-referrer": browsers would send forms with `Origin: null`, which auth.py refuses.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# A chart contains its own style sheet. Opened as a page of its own, it may use nothing else.
CHART_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"

_UNKNOWN: Final[dict[str, str]] = {"tools": "Sans outil"}
_OTHERS: Final = f"Groupes de moins de {LEAST} avis par semaine, réunis"
_PLACES: Final = {"direct": "Message direct", "salon": "Salon"}
_STATES: Final = {"running": "en cours", "closing": "en cours de clôture", "closed": "terminée"}
_ANSWERS: Final = {"yes": "Oui", "partly": "En partie", "no": "Non"}
_REASONS: Final = {
    "inaccurate": "Inexacte",
    "incomplete": "Incomplète",
    "off_topic": "Hors sujet",
    "too_long": "Trop longue",
    "sources": "Sources manquantes",
    "other": "Autre",
}
WORDS: Final = (  # the texts of the pages that are not in a template
    *(_OTHERS, *_UNKNOWN.values(), *_PLACES.values(), *_STATES.values()),
    *(*_ANSWERS.values(), *_REASONS.values()),
)


class Pages:
    """The page templates, in which every value is escaped and a missing one is an error."""

    def __init__(self) -> None:
        """Prepare the templates' folder, filters and globals."""
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "number": FRENCH.number,
            "percent": FRENCH.percent,
            "seconds": FRENCH.seconds,
            "day": FRENCH.day,
            "moment": FRENCH.moment,
            "nine_in_ten": partial(nine_in_ten, texts=TEXTS),
        }
        self._templates.globals |= {
            "answered": answered,
            "quantile": quantile,
            "rated": rated,
            "satisfaction": satisfaction,
            "infinite": math.inf,
            "least": LEAST,
            "periods": PERIODS,
            "answers": _ANSWERS,
            "states": _STATES,
            "reasons": {name: _REASONS[name] for name in REASONS},
        }

    def text(self, name: str, status: int, values: Mapping[str, object]) -> str:
        """Return a page's HTML."""
        return self._templates.get_template(f"{name}.html").render({"status": status, **values})

    def page(self, name: str, status: int, values: Mapping[str, object]) -> web.Response:
        """Return a page as a response that nobody may cache."""
        text = self.text(name, status, values)
        response = web.Response(text=text, status=status, content_type="text/html")
        response.headers["Cache-Control"] = "no-store"
        return response


def rows(part: str, groups: Mapping[str, Figures]) -> list[tuple[str, Figures]]:
    """Return a table's rows with names for people; most replies first, OTHERS last."""
    names = {"": _UNKNOWN.get(part, "Non précisé"), OTHERS: _OTHERS}
    names |= _PLACES if part == "place" else {}
    ranked = sorted(groups.items(), key=lambda one: (one[0] == OTHERS, -one[1]["replies"], one[0]))
    return [(names.get(name, name), figures) for name, figures in ranked]


def by_first_day(series: Mapping[date, Figures]) -> list[tuple[str, Figures]]:
    """Return a table's rows, latest days first."""
    return [(FRENCH.day(first), series[first]) for first in sorted(series, reverse=True)]
