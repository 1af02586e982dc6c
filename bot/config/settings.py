"""The configuration: its sections and settings, and a sentence for every fault in them.

Settings come from one YAML file, overridden by variables named ASSISTANT_SECTION__KEY. Every
secret `KEY` has a second form, `KEY_file`, which names a file to read it from.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from bot.config.model_section import ModelSettings
from bot.config.sections import (
    ConversationSettings,
    DashboardSettings,
    FeedbackSettings,
    HealthSettings,
    LimitsSettings,
    LogSettings,
    MatrixSettings,
    ReplySettings,
    ServiceSettings,
    StorageSettings,
)
from bot.config.sources import (
    DELIMITER,
    NO_SECTION,
    PREFIX,
    Environment,
    read_file,
    unknown_key,
    unknown_variables,
    variable,
)
from bot.errors import ConfigError

_SENTENCES = {
    "float_parsing": "must be a number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of a few digits",
    "missing": "missing, and it has no default",
    "model_type": NO_SECTION,
    "path_type": "must be a path",
    "string_type": "must be text",
    "too_short": "must not be empty",
    "tuple_type": "must be a list",
}


class Config(BaseSettings):
    """All settings, checked."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_ignore_empty=True,
        env_parse_none_str="null",
    )

    matrix: MatrixSettings = Field(description="the bot's account and its homeserver")
    model: ModelSettings = Field(description="the backend that speaks the OpenAI API")
    conversation: ConversationSettings = Field(
        default_factory=ConversationSettings, description="limits of conversations and prompts"
    )
    reply: ReplySettings = Field(
        default_factory=ReplySettings, description="pace and number of growing replies"
    )
    limits: LimitsSettings = Field(
        default_factory=LimitsSettings, description="limits for one person"
    )
    feedback: FeedbackSettings = Field(
        default_factory=FeedbackSettings, description="polls about replies"
    )
    service: ServiceSettings = Field(
        default_factory=ServiceSettings, description="contacts of the service"
    )
    storage: StorageSettings = Field(description="place and encryption of the bot's data")
    language: Literal["fr", "en"] = Field("fr", description="language of the bot's own sentences")
    health: HealthSettings = Field(
        default_factory=HealthSettings, description="HTTP server of probes and metrics"
    )
    dashboard: DashboardSettings = Field(
        default_factory=DashboardSettings, description="HTTP server of the dashboard"
    )
    log: LogSettings = Field(
        default_factory=LogSettings, description="level and format of the log"
    )

    @override
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_others: PydanticBaseSettingsSource,
        **_more: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let variables override the settings that `load` read from the file."""
        return Environment(settings_cls), init_settings


def load(path: Path) -> Config:
    """Read the configuration from a YAML file and the environment.

    Raises:
        ConfigError: there are faults; it names each by its key or variable, without any value.
    """
    settings, faults = read_file(path, Config)
    config = None
    details: list[ErrorDetails] = []
    try:
        config = Config(**settings)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
    sentences = faults | unknown_variables(Config)
    for detail in details:
        name = ".".join(map(str, detail["loc"]))
        if not any(_overlap(name, fault) for fault in faults):
            sentences |= _sentence(name, detail)
    if config is None or sentences:
        lines = [f"{name}: {sentence}" for name, sentence in sentences.items()]
        raise ConfigError("\n".join([f"{path}, with the environment, cannot be used:", *lines]))
    return config


def _overlap(name: str, fault: str) -> bool:
    """Return whether one name is or contains the other, as a later fault may follow from it."""
    return f"{name}.".startswith(f"{fault}.") or f"{fault}.".startswith(f"{name}.")


def _sentence(name: str, detail: ErrorDetails) -> dict[str, str]:
    """Return the sentence for one of pydantic's errors, by the name that the operator used."""
    kind = detail["type"]
    if kind == "default_factory_not_called":  # follows from another setting's fault
        return {}
    if kind == "extra_forbidden":
        return {name: unknown_key(name, Config)}
    if kind == "secret_file":
        name += "_file"
    given = {key.upper() for key, text in os.environ.items() if text}
    shown = variable(name) if variable(name) in given else name
    return {shown: _SENTENCES.get(kind, detail["msg"].replace("Input should be", "must be"))}
