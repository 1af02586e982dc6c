"""The sections of the configuration: the type, the default and the limits of each setting."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from bot.config.section import Section
from bot.config.types import (
    DAY,
    MANY,
    YEAR_HOURS,
    YEAR_MINUTES,
    Bearer,
    CaBundle,
    Database,
    Directory,
    Header,
    Key,
    Link,
    MatrixId,
    MatrixIds,
    Networks,
    Origin,
    PlainProxy,
    Secret,
    Servers,
    Text,
    Token,
)
from bot.core.events import server_name
from bot.core.feedback import AskPolicy
from bot.core.limits import Limits
from bot.core.markdown import Tables


def _own_server(validated: dict[str, Any]) -> tuple[str, ...]:
    return (server_name(validated["user_id"]),)


class MatrixSettings(Section):
    """The bot's account and its homeserver."""

    homeserver: Origin = Field(
        description="URL of the client-server API; its host may differ from the server name in ids"
    )
    user_id: MatrixId = Field(description="the bot's full Matrix id")
    password: Secret = Field(None, description="the account's password")
    access_token: Bearer = Field(None, description="a long-lived token, in place of the password")
    device_name: Text = Field("Assistant IA", description="display name of the bot's device")
    allowed_servers: Servers = Field(
        default_factory=_own_server,
        description='servers whose people are answered: names, or "*." and a suffix',
    )
    admins: MatrixIds = Field(
        (), description="full Matrix ids of the people who administer the bot, in the admin room"
    )
    bots: MatrixIds = Field((), description="full Matrix ids of bots, which are never answered")
    encrypt_to: Literal["all", "signed"] = Field(
        "all", description="devices that can read the bot: all, or those their owner has signed"
    )
    avatar: Literal["auto", "keep"] = Field(
        "auto", description="whether the account gets the assistant's avatar if it has none"
    )
    history_on_invite: bool = Field(
        default=False,
        description="whether keys of earlier messages are taken from whoever invites the bot",
    )
    recovery_key_file: Path | None = Field(
        None,
        description="new file for the account's recovery key, to be moved to another disk; null"
        " for the terminal",
    )
    # A proxy's URL may hold a password: neither it nor the model's is ever printed.
    proxy: PlainProxy | None = Field(
        None, repr=False, exclude=True, description="proxy to the homeserver"
    )
    ca_bundle: CaBundle | None = Field(
        None, description="authorities to trust besides the system's"
    )

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.password is None) == (self.access_token is None):
            expected = "give either password or access_token (or the file of one), and only one"
            raise PydanticCustomError("login", expected)
        return self


class ConversationSettings(Section):
    """The limits of a conversation and of a prompt, and the place of replies in salons."""

    idle_minutes: float = Field(
        60.0,
        gt=0,
        le=YEAR_MINUTES,
        description="minutes of silence after which a conversation begins anew",
    )
    age_limit_hours: float = Field(
        24.0,
        ge=1,
        le=YEAR_HOURS,
        description="hours after which a message is too old to be answered",
    )
    join_seconds: float = Field(
        60.0,
        ge=0,
        le=DAY,
        description="seconds within which a further message joins the same prompt",
    )
    salon_replies: Literal["thread", "inline"] = Field(
        "thread", description="where a reply in a salon goes"
    )


class ReplySettings(Section):
    """The pace of a reply's edits, and how many replies are written at the same time."""

    first_after: float = Field(
        1.5,
        ge=0,
        le=DAY,
        description="seconds from the first token until words show, even without a sentence end",
    )
    edit_interval: float = Field(
        2.0, ge=1, le=DAY, description="seconds between two edits of one reply"
    )
    at_once: int = Field(
        20, ge=1, le=MANY, description="number of replies that are written at the same time"
    )
    share: float = Field(
        0.25, gt=0, le=1, description="share of at_once for one person or room while others wait"
    )
    line_after: float = Field(
        10.0, ge=1, le=DAY, description="seconds until a waiting person is told why"
    )
    drain_seconds: float = Field(
        25.0,
        ge=0,
        le=DAY,
        description="seconds for running replies to end when the process is stopped",
    )
    tables: Tables = Field(
        "list", description="how tables are shown: as lists, or as tables on web and desktop only"
    )


class LimitsSettings(Section):
    """The limits for one person; 0 for no limit."""

    prompts_per_hour: int = Field(120, ge=0, le=MANY, description="messages that are answered")
    regenerations_per_hour: int = Field(
        60, ge=0, le=MANY, description="replies that are generated again"
    )
    comments_per_hour: int = Field(
        30, ge=0, le=MANY, description="comments on replies that are kept"
    )
    prompts_per_minute: int = Field(
        20,
        ge=0,
        le=MANY,
        description="prompts after which a conversation is paused, as a bot seems to write there",
    )
    quick_exchanges: int = Field(
        6,
        ge=0,
        le=MANY,
        description="prompts in a row, each within 2 s of a reply, after which it is paused, too",
    )

    def limits(self) -> Limits:
        """Return the limits."""
        return Limits(
            prompts=self.prompts_per_hour,
            regenerations=self.regenerations_per_hour,
            comments=self.comments_per_hour,
            per_minute=self.prompts_per_minute,
            quick=self.quick_exchanges,
        )


class FeedbackSettings(Section):
    """The polls about replies: when, where and how often they are sent."""

    ask: Literal["never", "reply", "silence"] = Field(
        "silence", description="after which replies a poll may be sent, or never"
    )
    one_in: int = Field(3, ge=1, le=MANY, description="number of replies of which one gets a poll")
    silence_minutes: float = Field(
        5.0,
        gt=0,
        le=YEAR_MINUTES,
        description="minutes without a prompt after which a conversation is silent",
    )
    per_day: int = Field(
        2, ge=0, le=MANY, description="largest number of polls for one person in 24 hours"
    )
    window_hours: float = Field(
        24.0, gt=0, le=YEAR_HOURS, description="hours for which a vote counts"
    )
    salons: Literal["never", "reactions", "poll"] = Field(
        "reactions",
        description="how salons are asked: not at all, by the reactions 👍 and 👎, or by polls",
    )
    least_characters: int = Field(
        300,
        ge=0,
        le=MANY,
        description="length of a reply from which a poll may follow it in a direct message",
    )

    def policy(self) -> AskPolicy:
        """Return the rules for when to send a poll."""
        return AskPolicy(
            when=self.ask,
            one_in=self.one_in,
            silence=self.silence_minutes * 60,
            per_day=self.per_day,
            window=self.window_hours * 3600,
            salons=self.salons,
            least_characters=self.least_characters,
        )


class ServiceSettings(Section):
    """Contacts of the service, as `!apropos` shows them."""

    status_page: Link | None = Field(None, description="URL that shows whether the service is up")
    contact: Text | None = Field(None, description="whom to ask: an address, a salon, any words")


class StorageSettings(Section):
    """The place and the encryption of the bot's data."""

    directory: Directory = Field(
        Path("/var/lib/assistant-tchap"), description="holds the ledger and the encryption keys"
    )
    key: Key = Field(
        description="encrypts the encryption keys in the directory, and is kept elsewhere"
    )
    database: Database = Field(
        None, description="PostgreSQL URL of the ledger; null for a file in the directory"
    )
    keep_keys_days: int = Field(
        90,
        ge=1,
        le=36_500,
        description="days for which an unused room key is kept",
    )


class HealthSettings(Section):
    """The HTTP server of probes and metrics."""

    host: Text = Field("127.0.0.1", description="address or host name to listen on")
    port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        None, description="TCP port of /livez, /readyz and /metrics; null for no server"
    )


class DashboardSettings(Section):
    """The HTTP server of the dashboard, and the access to it."""

    host: Text = Field("127.0.0.1", description="address or host name to listen on")
    port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        None, description="TCP port of the dashboard; null for no server"
    )
    token: Token = Field(None, description="the token to type to see the dashboard")
    proxy_header: Header | None = Field(
        None, description="header in which a reverse proxy names the person it has logged in"
    )
    proxies: Networks = Field(
        (), description="addresses and networks of that proxy; the header counts only from these"
    )
    public: bool = Field(default=False, description="whether everybody may see /statistiques")

    @model_validator(mode="after")
    def _needs_login(self) -> Self:
        if (self.proxy_header is None) != (not self.proxies):
            expected = "proxy_header and proxies belong together: give both, or neither"
            raise PydanticCustomError("proxy", expected)
        if self.port and not (self.token or self.proxy_header or is_loopback(self.host)):
            expected = (
                "give token (or token_file), or proxy_header with proxies: without a login the"
                " dashboard is for this machine alone, with host 127.0.0.1"
            )
            raise PydanticCustomError("open", expected)
        return self


def is_loopback(host: str) -> bool:
    """Return whether the address can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class LogSettings(Section):
    """The level and the format of the log."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least severe level that is logged"
    )
    format: Literal["json", "console"] = Field(
        "json", description="json for machines, console for people"
    )
