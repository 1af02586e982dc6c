"""Failpoints: sites at which a test can make the process fail.

`BOT_FAIL=sent.after:kill@2` kills the process after it has recorded its second message. Several
are separated by commas. Without the variable, a site does nothing.
"""

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal, NoReturn, assert_never, cast

VARIABLE: Final = "BOT_FAIL"

# Transactions of the ledger (`within`: the statements are done, the commit is not).
COMMITS: Final = (
    *("admit", "claim", "sent", "freeze", "finish", "choose", "noticed"),
    *("answered", "begin", "asked", "put_off", "drop", "count", "rate", "comment", "withdraw"),
    "share",
    *("want_polls", "publish"),
    *("draft", "launch", "campaign_sent", "reminded", "ended", "campaign_put_off", "decline"),
    *("answer", "close_campaign", "campaign_begin", "answer_withdrawn", "answer_amended"),
    *("campaign_told", "amend"),
)
# Requests that change something on the homeserver.
REQUESTS: Final = (
    *("first", "edit", "final", "repair", "notice", "redact", "join", "leave", "poll", "thanks"),
    *("create", "invite", "campaign", "attachment", "enter"),
)
# Steps in the creation of the account's cross-signing identity.
IDENTITY_STEPS: Final = (
    *("identity_saved", "reset_saved", "recovery_key_given", "identity_published"),
    "device_uploaded",
    *("device_signed", "backup_made", "secret_stored", "storage_named"),
)
SITES: Final = (
    *(f"{name}.{when}" for name in COMMITS for when in ("before", "within", "after")),
    *(f"{name}.{when}" for name in REQUESTS for when in ("before", "after")),
    *IDENTITY_STEPS,
)

Action = Literal["kill", "raise", "hang", "enospc"]


class Failpoints:
    """The actions to take, by site and by number of its passage."""

    def __init__(self, armed: str = "") -> None:
        """Read `site:action@passage`, separated by commas; the passage is 1 if it is left out.

        Raises:
            ValueError: there is no such site or action.
        """
        self._actions: dict[tuple[str, int], Action] = {}
        self._passages: Counter[str] = Counter()
        for one in filter(None, armed.split(",")):
            site, _, rest = one.partition(":")
            action, _, passage = rest.partition("@")
            if site not in SITES or action not in {"kill", "raise", "hang", "enospc"}:
                raise ValueError(f"{VARIABLE}: no such failpoint: {one}")
            self._actions[site, int(passage or 1)] = cast("Action", action)

    def reach(self, site: str) -> None:
        """Take the action of this passage of the site, if there is one."""
        if not self._actions:
            return
        self._passages[site] += 1
        action = self._actions.get((site, self._passages[site]))
        match action:
            case None:
                return
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise RuntimeError(f"failpoint {site}")
            case "enospc":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "hang":
                _hang()
            case _:
                assert_never(action)

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Reach the site `name.before` before the block, and `name.after` after it."""
        self.reach(f"{name}.before")
        yield
        self.reach(f"{name}.after")


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


armed = Failpoints(os.environ.get(VARIABLE, ""))
