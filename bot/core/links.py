"""Links: which URLs may be one, and whether a link's text names the host it leads to."""

import re
from urllib.parse import unquote

# A URL's userinfo is dropped, as it only serves to deceive. A host is ASCII (IDN: punycode).
_WEB = re.compile(
    r"(https?://)(?:[^/?#\\]*@)?([a-z0-9_.-]+(?::\d{1,5})?)([/?#][!-~]*)?", re.IGNORECASE
)
_MAIL = re.compile(r"mailto:([^?,;@]+@[a-z0-9.-]+)(?:\?[!-~]*)?", re.IGNORECASE)
_PERMALINK = re.compile(r"^https?://matrix\.to\.?(?:[:/?#]|$)|#/(?:user|room)/", re.IGNORECASE)


def destination(url: str) -> tuple[str, str] | None:
    """Return the URL to link to, and the host or mail address to show; None for no link.

    Matrix permalinks may not be links, as clients would show them as mentions.
    """
    if mail := _MAIL.fullmatch(url):
        return f"mailto:{mail[1]}", mail[1]
    web = _WEB.fullmatch(url)
    if not web:
        return None
    site = web[2].lower()
    href = f"{web[1].lower()}{site}{web[3] or ''}"
    return None if _PERMALINK.search(unquote(href)) else (href, site)


def names_site(words: str, site: str) -> bool:
    """Return whether a link's text is an address at the host or mail address it leads to."""
    address = rf"(?:https?://|mailto:)?{re.escape(site)}(?:[/?#]\S*)?"
    return re.fullmatch(address, words, re.IGNORECASE | re.ASCII) is not None
