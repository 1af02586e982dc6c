"""The sources of settings: a YAML file, variables that override it, and files that hold secrets.

Scalars keep the text they were written as, as in variables (YAML's failsafe schema, with null), so
that `language: no`, `password: 0123` and `name: 2026-01-01` mean what they say. Text that YAML
would drop silently (after an unquoted #, ! or &, or the first of two equal keys) is a fault.
Faults are kept by dotted path. None holds a value, which may be a secret in the wrong place.
"""

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeGuard, get_args

import yaml
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource
from typing_extensions import override

from bot.errors import ConfigError

PREFIX = "ASSISTANT_"
DELIMITER = "__"
NO_SECTION = "must be a section: keys below it, indented"

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,29}")  # short as names are, unlike most secrets
_COMMENT = re.compile(r"[ \t]+#[^\s#]")
_INDICATORS = set("@`%*&!")


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret to be read from a file.

    Attributes:
        path: the file's path, as it was given.
        alone: whether the secret's value is not given as well.
    """

    path: object
    alone: bool


def names(model: type[BaseModel]) -> list[str]:
    """Return the dotted path of every setting, and of the `_file` key of every secret."""
    found: list[str] = []
    for key in model.model_fields:
        section = _section(model, key)
        found += [f"{key}.{name}" for name in names(section)] if section else [key]
    return found + [f"{key}_file" for key in _secrets(model)]


def variable(name: str) -> str:
    """Return the name of the variable for a dotted path."""
    return PREFIX + name.replace(".", DELIMITER).upper()


def unknown_key(name: str, model: type[BaseModel]) -> str:
    """Return the sentence for a dotted path that no setting has."""
    path, _, key = name.rpartition(".")
    if fields := _entry(path, model):
        nearest = [f"{path}.{near}" for near in get_close_matches(key, fields, n=1)]
    else:
        nearest = get_close_matches(name, [*model.model_fields, *names(model)], n=1)
    return f"unknown key; {_advice(nearest)}"


def unknown_variables(model: type[BaseModel]) -> dict[str, str]:
    """Return the faults of variables that have the prefix but name no setting."""
    known = {variable(name): name for name in names(model)}
    given = {name for name in map(str.upper, os.environ) if name.startswith(PREFIX)}
    faults = {}
    for wrong in sorted(given - known.keys()):
        name = wrong.removeprefix(PREFIX).replace(DELIMITER, ".").lower()
        nearest = [variable(near) for near in get_close_matches(name, known.values(), n=1)]
        faults[wrong] = f"unknown variable; {_advice(nearest)}"
    return faults


class Environment(EnvSettingsSource):
    """The variables that name a setting; an empty one counts as unset, "null" as the default."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        known = {variable(name).lower() for name in names(settings_cls)}
        self.env_vars = {name: text for name, text in self.env_vars.items() if name in known}

    @override
    def __call__(self) -> dict[str, Any]:
        """Return the settings found, by section."""
        found = super().__call__()
        for key, values in found.items():
            if section := _section(self.settings_cls, key):
                found[key] = _with_secret_files(section, values)
            elif values is None:
                found[key] = self.settings_cls.model_fields[key].default
        return found


def read_file(path: Path, model: type[BaseModel]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings of a YAML file, every section as a mapping, and its faults.

    Raises:
        ConfigError: the file cannot be read at all.
    """
    document = _Document(_text(path), {})
    settings: dict[str, Any] = {key: {} for key in model.model_fields if _section(model, key)}
    for key, value in document.root(path).items():
        section = _section(model, key)
        if key not in model.model_fields:
            document.faults[key] = unknown_key(key, model)
        elif section and not isinstance(value, dict | None):
            document.faults[key] = NO_SECTION
        elif section:
            settings[key] = _with_secret_files(section, value or {})
        elif value is not None:
            settings[key] = value
    return settings, document.faults


def _entry(path: str, model: type[BaseModel]) -> list[str]:
    """Return the keys of the section at a path; none if there is no such section."""
    for key in path.split("."):
        if section := _section(model, key):
            model = section
        elif entries := [part for part in get_args(_annotation(model, key)) if _is_section(part)]:
            return [*entries[0].model_fields]
    return []


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    annotation = _annotation(model, key)
    return annotation if _is_section(annotation) else None


def _annotation(model: type[BaseModel], key: str) -> object:
    field = model.model_fields.get(key)
    return field.annotation if field else None


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _secrets(model: type[BaseModel]) -> list[str]:
    fields = model.model_fields.items()
    return [
        key
        for key, field in fields
        if SecretStr in (field.annotation, *get_args(field.annotation))
    ]


def _with_secret_files(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """Replace every secret of a section whose `_file` key is given by a SecretFile.

    This is done for each source separately: a variable overrides the YAML file's secret, whichever
    of the two forms either of them uses.
    """
    merged = dict(values)
    for key in _secrets(model):
        path = merged.pop(f"{key}_file", None)
        if path is not None:
            merged[key] = SecretFile(path, alone=merged.get(key) is None)
    return merged


def _advice(nearest: list[str]) -> str:
    return f"did you mean {nearest[0]}?" if nearest else "config.example.yaml names them all"


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        fault = "no such file; copy config.example.yaml there and fill it in"
    except IsADirectoryError:
        fault = "a directory; name the YAML file in it"
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        fault = "not UTF-8 text; save it in that encoding"
    # Raised outside of the handlers: a chained exception would hold the file's bytes.
    raise ConfigError(f"{path}: {fault}")


@dataclass(frozen=True, slots=True)
class _Document:
    """A YAML text, and the faults found while it is converted to plain data."""

    text: str
    faults: dict[str, str]

    def root(self, path: Path) -> dict[str, Any]:
        """Return the top level's mapping."""
        try:
            node = yaml.compose(self.text, yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            fault = f"not valid YAML{self._position(error.problem_mark)}"
        except (yaml.YAMLError, ValueError, OverflowError):  # PyYAML: \U escapes beyond Unicode
            fault = "not valid YAML: it holds a character that text cannot hold"
        except RecursionError:
            fault = "not valid YAML: nested too deeply"
        else:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, "")
            fault = "the top level must be sections, such as matrix: and model:"
            if node is None:
                fault = "empty; copy config.example.yaml there and fill it in"
        # Raised outside of the handlers: a chained exception would quote the faulty line.
        raise ConfigError(f"{path}: {fault}")

    def _position(self, mark: yaml.Mark | None) -> str:
        if mark is None:
            return ""
        position = f" at line {mark.line + 1}, column {mark.column + 1}"
        first = self.text[mark.index : mark.index + 1]
        if first == "\t":
            return f"{position}: indent with spaces, not with tabs"
        if first in _INDICATORS:
            return f"{position}: write a value that begins with {first} in quotes"
        return position

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str) or not KEY.fullmatch(key):
                self.faults[f"{path or 'top level'}, line {line}"] = "a key must be a plain word"
                continue
            name = f"{path}.{key}" if path else key
            values[key] = self._plain(value_node, name)
            if key in lines:
                self.faults[name] = f"written twice, at lines {lines[key]} and {line}"
            lines[key] = line
        return values

    def _plain(self, node: yaml.Node, name: str) -> object:
        first = self.text[node.start_mark.index : node.start_mark.index + 1]
        if first in {"!", "&"}:  # not followed further: an anchored list may hold itself
            self.faults[name] = f"YAML drops a word that begins with {first}; write it in quotes"
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, name)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, f"{name}.{n}") for n, item in enumerate(node.value)]
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        if plain and _COMMENT.match(self.text, node.end_mark.index):
            self.faults[name] = (
                "YAML takes a word that begins with # for a comment; write it in quotes "
                "(if a comment is meant, put a space after the #)"
            )
        return None if node.tag == "tag:yaml.org,2002:null" else node.value
