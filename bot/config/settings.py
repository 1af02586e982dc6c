"""The configuration: its sections and settings, and a sentence for every fault in them.

Settings come from one YAML file and, above it, from variables named ASSISTANT_SECTION__KEY. Every
secret has a twin, `KEY_file`, that names a file to read it from.
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
        default_factory=ConversationSettings, description="what belongs to one conversation"
    )
    reply: ReplySettings = Field(
        default_factory=ReplySettings, description="how a reply grows in the room"
    )
    limits: LimitsSettings = Field(
        default_factory=LimitsSettings, description="what one person may ask for"
    )
    feedback: FeedbackSettings = Field(
        default_factory=FeedbackSettings, description="what people are asked about replies"
    )
    service: ServiceSettings = Field(
        default_factory=ServiceSettings, description="where people turn to"
    )
    storage: StorageSettings = Field(description="where the bot remembers")
    language: Literal["fr", "en"] = Field("fr", description="the bot's own sentences")
    health: HealthSettings = Field(
        default_factory=HealthSettings, description="where probes and metrics are found"
    )
    dashboard: DashboardSettings = Field(
        default_factory=DashboardSettings, description="where the product team looks"
    )
    log: LogSettings = Field(default_factory=LogSettings, description="what is logged, and how")

    @override
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_others: PydanticBaseSettingsSource,
        **_more: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment above what `load` read from the file."""
        return Environment(settings_cls), init_settings


def load(path: Path) -> Config:
    """Read the configuration from a YAML file and the environment.

    Raises:
        ConfigError: every fault found, one per line, named by its key or variable; no values.
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
    """Tell whether one is or holds the other: what only follows from a fault is not said."""
    return f"{name}.".startswith(f"{fault}.") or f"{fault}.".startswith(f"{name}.")


def _sentence(name: str, detail: ErrorDetails) -> dict[str, str]:
    """Return the sentence for one of pydantic's errors, by the name that the operator gave."""
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
