"""Every error the bot raises on purpose, as one tree.

BotError
├── ConfigError               the configuration is at fault; the message says what to change
│   └── IdentityError           the account's cross-signing identity: the operator must decide
├── FatalError                ends the process; unfinished events wait in the ledger
│   ├── StoreError              the ledger or the crypto store cannot be opened, read or written
│   ├── LoggedOut               the access token is no longer valid; a MatrixError as well
│   └── AccountExpired          the Tchap account must be renewed by mail; a MatrixError as well
├── Stalled                   the sync loop stands still although the process lives
├── MatrixError               the homeserver or the account
│   ├── Retryable               the same request may succeed later
│   │   ├── HomeserverUnreachable no connection, a 5xx, an account that is held up
│   │   │   └── NotMatrix           a response that is not Matrix, for example a proxy's page
│   │   ├── RateLimited           429, with the wait the homeserver asked for
│   │   └── SoftLogout            the session is over, the device is not: it logs in again
│   ├── Forbidden               the homeserver refuses this one request for good
│   │   ├── NotFound              the object does not exist, or the bot may not see it
│   │   │   └── Absent                  the homeserver says that it does not exist
│   │   ├── OtherBackup           the key backup was replaced by another one
│   │   └── TooLarge              the request is larger than the homeserver accepts
│   └── NotEncrypted            a room that the bot created encrypted is not encrypted
└── CompletionError           the model's backend; each has the key of the person's sentence
    ├── ModelUnreachable        refused, DNS, TLS, proxy
    ├── ModelTimeout            no word within the time allowed
    │   └── ModelWordless           bytes came, but no word: a retry would wait as long again
    ├── ModelStalled            no further word within the time allowed
    ├── ModelLimited            429: the quota of the minute or the day is used up
    ├── ModelBusy               503: too many requests, from all clients
    ├── ModelFailed             another 5xx, an error in the stream, or no completion at all
    ├── ModelUnknown            404: the backend has no such model
    ├── ModelRejected           422: the model is of another type, or the request is not valid
    ├── ModelRefused            another 4xx: key, rights or budget
    ├── PromptTooLong           the prompt alone is more than the model can take
    │   └── PromptTooLongForModel   the backend found the request too long
    └── Truncated               the stream ended without an end mark
"""

from typing import ClassVar


class BotError(Exception):
    """The root of the tree: any other exception that escapes is a bug."""


class ConfigError(BotError):
    """The configuration is at fault; the message says what to change."""


class IdentityError(ConfigError):
    """The account's cross-signing identity cannot be used; the operator must decide."""


class FatalError(BotError):
    """The process cannot go on; unfinished events wait in the ledger for the next start."""


class StoreError(FatalError):
    """The ledger or the crypto store cannot be opened, read or written."""


class Stalled(BotError):
    """The sync loop has stalled although the process lives; a new process may go on."""


class MatrixError(BotError):
    """The homeserver refused or failed, or the account is not usable."""


class Retryable(MatrixError):
    """The same request may succeed later."""


class HomeserverUnreachable(Retryable):
    """No connection, a 5xx, or an account that is locked, suspended or over a limit."""


class NotMatrix(HomeserverUnreachable):
    """A response that is not Matrix, for example a proxy's page."""


class RateLimited(Retryable):
    """The homeserver answered 429.

    Attributes:
        retry_after: seconds to wait before the same request may be sent again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Forbidden(MatrixError):
    """The homeserver refuses this request for good; a retry cannot succeed."""


class NotFound(Forbidden):
    """The object does not exist on the homeserver, or the bot may not see it."""


class Absent(NotFound):
    """The homeserver says that the object does not exist."""


class OtherBackup(Forbidden):
    """The account's key backup was replaced by another one."""


class TooLarge(Forbidden):
    """The request is larger than the homeserver, or a proxy before it, accepts."""


class NotEncrypted(MatrixError):
    """A room that the bot created encrypted is not encrypted, so nothing is sent there."""


class SoftLogout(Retryable):
    """The session is over, but the same device may log in again (spec: soft logout)."""


class LoggedOut(FatalError, MatrixError):
    """The access token is no longer valid, and the device is gone."""


class AccountExpired(FatalError, MatrixError):
    """Tchap's 403 ORG_MATRIX_EXPIRED_ACCOUNT: the account must be renewed by mail."""


class CompletionError(BotError):
    """The model's backend failed; `key` names the sentence that the person reads.

    Attributes:
        retry_after: seconds that the backend asked to wait; None if it did not say.
        values: values of the sentence's placeholders.
    """

    key: ClassVar[str] = "model failed"

    def __init__(self, message: str, retry_after: float | None = None, **values: object) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.values = values


class ModelUnreachable(CompletionError):
    """No connection to the backend: refused, DNS, TLS or proxy."""

    key = "model unreachable"


class ModelTimeout(CompletionError):
    """The backend sent no word within the time allowed."""

    key = "model timeout"


class ModelWordless(ModelTimeout):
    """The backend sent bytes, but no word within the time allowed."""


class ModelStalled(CompletionError):
    """The backend sent words, and then nothing within the time allowed."""

    key = "model stalled"


class ModelLimited(CompletionError):
    """429: the account's quota of the minute or the day is used up."""

    key = "model limited"


class ModelBusy(CompletionError):
    """503: the backend has too many requests, from all its clients."""

    key = "model busy"


class ModelFailed(CompletionError):
    """Another 5xx, an error object inside the stream, or a response that is no completion."""


class ModelUnknown(CompletionError):
    """404: the backend has no model of that name, or nothing at that address."""

    key = "model unknown"


class ModelRejected(CompletionError):
    """422: the model is of another type, or the request is not valid."""

    key = "model rejected"


class ModelRefused(CompletionError):
    """Another 4xx: the key, the rights or the budget; the operator must act."""

    key = "model refused"


class PromptTooLong(CompletionError):
    """The prompt alone is more than the model can take, by `values["n"]` characters."""

    key = "prompt too long"


class PromptTooLongForModel(PromptTooLong):
    """The backend found the request too long, and does not say by how much."""

    key = "prompt too long for model"


class Truncated(CompletionError):
    """The stream ended without `finish_reason` and without `[DONE]`."""

    key = "model truncated"
