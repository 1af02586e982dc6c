"""Requests that the account's owner must approve (spec: user-interactive authentication)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import structlog

from bot.errors import ConfigError, Forbidden, Retryable
from bot.matrix.json_fields import Json, mapping, text
from bot.matrix.response_repair import GuardedResponse

# A request with one `auth`, None at first. It returns the response or a challenge.
Ask = Callable[[Mapping[str, Any] | None], Awaitable[GuardedResponse]]

_PASSWORD = "m.login.password"  # noqa: S105  # the stage's name
# Stages that a person completes at a URL in the challenge (MSC4312).
_AT_ADDRESS = ("m.oauth", "org.matrix.cross_signing_reset")
_POLL_SECONDS = 5.0
_PATIENCE_SECONDS = 900.0

log = structlog.get_logger()


class InteractiveAuth:
    """Completes the stage the homeserver asks for: by password, or a person in a browser."""

    def __init__(
        self,
        homeserver: str,
        user_id: str,
        password: str | None,
        tell: Callable[[str], None],
        beat: Callable[[], None] = lambda: None,
        poll_seconds: float = _POLL_SECONDS,
    ) -> None:
        """Set up authentication for one account.

        Args:
            homeserver: the homeserver's URL.
            user_id: the account.
            password: the account's password; None if there is only an access token.
            tell: shows the operator what to open in a browser.
            beat: called while the bot waits for a person.
            poll_seconds: the time between two checks whether the person has approved.
        """
        self._homeserver = homeserver
        self._user_id = user_id
        self._password = password
        self._tell = tell
        self._beat = beat
        self._poll_seconds = poll_seconds

    async def authenticate(self, ask: Ask) -> Json:
        """Make the request, authenticate if the homeserver asks for it, and return the response.

        Raises:
            ConfigError: the password is wrong or missing, or nobody has approved in the browser.
            MatrixError: see `ask`.
        """
        answer = await ask(None)
        if not answer.challenge:
            return answer.source
        session, stages = text(answer.source, "session"), _stages(answer.source)
        if (_PASSWORD,) in stages and self._password is not None:
            return await self._by_password(ask, session)
        if ("m.login.dummy",) in stages:
            return (await ask({"type": "m.login.dummy", "session": session})).source
        return await self._in_browser(ask, session, self._address(answer.source, session, stages))

    async def _by_password(self, ask: Ask, session: str) -> Json:
        auth = {
            "type": _PASSWORD,
            "identifier": {"type": "m.id.user", "user": self._user_id},
            "password": self._password,
            "session": session,
        }
        try:
            answer = await ask(auth)
        except Forbidden as error:
            raise ConfigError(f"the homeserver refuses matrix.password: {error}") from error
        if answer.challenge:
            raise ConfigError(
                "the homeserver does not take matrix.password for this: check it, or do this in a"
                " client that is logged in as the assistant"
            )
        return answer.source

    async def _in_browser(self, ask: Ask, session: str, address: str) -> Json:
        self._tell(
            f"the homeserver wants the account's owner to approve this: open {address} in a"
            f" browser, logged in as {self._user_id}; waiting"
        )
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_SECONDS
        while loop.time() < until:
            self._beat()
            await asyncio.sleep(self._poll_seconds)
            try:
                answer = await ask({"session": session})
            except Retryable as error:
                log.info("approval not asked for", reason=str(error))
                continue
            if not answer.challenge:
                return answer.source
        raise ConfigError(f"nobody has approved it in {_PATIENCE_SECONDS / 60:.0f} minutes")

    def _address(self, challenge: Json, session: str, stages: set[tuple[str, ...]]) -> str:
        """Return the URL at which a person completes the stage (spec: fallback)."""
        params = mapping(challenge.get("params"))
        for stage in _AT_ADDRESS:
            address = text(mapping(params.get(stage)), "url")
            if address.startswith(("https://", "http://")) and address.isprintable():
                return address
        single = sorted(one for (one,) in (flow for flow in stages if len(flow) == 1))
        if not single or single == [_PASSWORD]:
            raise ConfigError(
                "the homeserver wants matrix.password for this: give it in place of the access"
                " token, or do this in a client that is logged in as the assistant"
            )
        stage = next(one for one in single if one != _PASSWORD)
        return (
            f"{self._homeserver}/_matrix/client/v3/auth/{quote(stage)}/fallback/web"
            f"?session={quote(session, safe='')}"
        )


def _stages(challenge: Json) -> set[tuple[str, ...]]:
    """Return the offered flows, each as the tuple of its stages."""
    flows = challenge.get("flows")
    return {
        tuple(str(stage) for stage in stages)
        for flow in (flows if isinstance(flows, list) else [])
        if isinstance(stages := mapping(flow).get("stages"), list)
    }
