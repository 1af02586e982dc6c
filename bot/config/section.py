"""The base of every section of the configuration."""

from pydantic import (
    BaseModel,
    ConfigDict,
    field_validator,
    model_validator,
)

from bot.config.types import (
    sound,
)


class Section(BaseModel):
    """The base of all sections: no unknown keys, no later change, no value in an error message."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        return {
            key: value
            for key, value in values.items()
            if value is not None or key not in cls.model_fields
        }

    @field_validator("*", mode="before")
    @classmethod
    def _sound(cls, value: object) -> object:
        return sound(value)
