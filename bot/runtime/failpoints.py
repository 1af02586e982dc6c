"""Where a process may be made to fail, so that tests can try each place: before and after it.

`BOT_FAIL=sent.after:kill@2` kills the process when it has recorded its second message. Several are
separated by commas. Without the variable nothing is ever done.
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

# One transaction of the ledger each (`within`: its work is done, its commit is not).
COMMITS: Final = (
    *("admit", "claim", "sent", "freeze", "finish", "choose", "noticed"),
    *("answered", "begin", "asked", "put_off", "drop", "count", "rate", "comment", "withdraw"),
    "share",
    *("want_polls", "publish"),
    *("draft", "launch", "campaign_sent", "reminded", "ended", "campaign_put_off", "decline"),
    *("answer", "close_campaign", "campaign_begin", "answer_withdrawn", "answer_amended"),
    *("campaign_told", "amend"),
)
# One request each that changes something on the homeserver.
REQUESTS: Final = (
    *("first", "edit", "final", "repair", "notice", "redact", "join", "leave", "poll", "thanks"),
    *("create", "invite", "campaign", "attachment", "enter"),
)
# What the making of the account's cross-signing identity has reached.
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

Deed = Literal["kill", "raise", "hang", "enospc"]


class Failpoints:
    """What is to happen at which site, at which of its passages."""

    def __init__(self, armed: str = "") -> None:
        """Take `site:deed@passage`, separated by commas; the passage is 1 where it is left out.

        Raises:
            ValueError: there is no such site or deed.
        """
        self._deeds: dict[tuple[str, int], Deed] = {}
        self._passages: Counter[str] = Counter()
        for one in filter(None, armed.split(",")):
            site, _, rest = one.partition(":")
            deed, _, passage = rest.partition("@")
            if site not in SITES or deed not in {"kill", "raise", "hang", "enospc"}:
                raise ValueError(f"{VARIABLE}: no such failpoint: {one}")
            self._deeds[site, int(passage or 1)] = cast("Deed", deed)

    def reach(self, site: str) -> None:
        """Do what is to be done here, mostly nothing."""
        if not self._deeds:
            return
        self._passages[site] += 1
        deed = self._deeds.get((site, self._passages[site]))
        match deed:
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
                assert_never(deed)

    @contextmanager
    def around(self, name: str) -> Iterator[None]:
        """Pass the sites before and after the block."""
        self.reach(f"{name}.before")
        yield
        self.reach(f"{name}.after")


def _hang() -> NoReturn:
    while True:
        time.sleep(3600)


armed = Failpoints(os.environ.get(VARIABLE, ""))
