"""One road for options: frozen models, presets as data, dotted keys, and every fault in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rwmdata.errors import RwmError


class Frozen(BaseModel):
    """Base of every configuration model: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of values, nested or dotted, for :func:`build`."""
    default_preset: ClassVar[str | None] = None
    """Preset that is meant where none is named; None for the fields' own defaults."""


Model = TypeVar("Model", bound=Frozen)


def build(model: type[Model], preset: str | None = None, *changes: Mapping[str, Any]) -> Model:
    """Return a configuration: a preset with changes on top, later ones winning.

    Args:
        model: Class of the configuration.
        preset: One of its presets; its default preset when None.
        changes: Options by name. A nested one is named by its path, ``{"ppo.lr": 1e-4}`` or ``{"ppo": {"lr": 1e-4}}``,
            or by its own name alone, ``{"lr": 1e-4}``, where only one of the nested configurations has it.

    Raises:
        RwmError: The preset or an option is unknown, an option's name is ambiguous, or a value is not valid; every
            fault is listed.
    """
    label = label_of(model)
    preset = preset or model.default_preset
    if preset is not None and preset not in model.presets:
        raise RwmError(f"Unknown {label} preset '{preset}'; presets: {', '.join(model.presets)}.", "--preset NAME")
    layers = [model.presets[preset]] if preset else []
    values: dict[str, Any] = {}
    for layer in (*layers, *changes):
        for key, value in layer.items():
            values = merge(values, nest(path_of(model, key), value))
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        raise RwmError(f"The {label} configuration is not valid: {one_line(exc)}.", _names_hint(model, exc)) from exc


def label_of(model: type[BaseModel]) -> str:
    """Return what a configuration is called in errors: ``LambdaSweepConfig`` is a lambda sweep."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__.removesuffix("Config")).lower()


def path_of(model: type[BaseModel], key: str) -> str:
    """Return the dotted path of an option that may be given by its own name alone.

    Raises:
        RwmError: Several nested configurations have an option of that name.
    """
    first = key.partition(".")[0]
    if first in model.model_fields:
        return key
    paths = [path for path in option_paths(model) if path.endswith(f".{first}")]
    if len(paths) > 1:
        either = " or ".join(paths)
        raise RwmError(f"The {label_of(model)} option '{first}' could be {either}.", f"--set {paths[0]}=VALUE")
    return f"{paths[0]}{key.removeprefix(first)}" if paths else key


def option_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Give the dotted paths of all options of a configuration, nested ones included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from option_paths(field.annotation, f"{prefix}{name}.")


def nest(path: str, value: Any) -> dict[str, Any]:
    """Return a value under its dotted path: ``loss.decay`` and 0.9 are ``{"loss": {"decay": 0.9}}``."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return dict(value)


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested options put together; those of ``upper`` win."""
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read_settings(texts: list[str]) -> dict[str, Any]:
    """Return ``KEY=VALUE`` texts as options by dotted key; a value is JSON where it can be read as such.

    Raises:
        RwmError: A text has no key or no value.
    """
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise RwmError(f"'{text}' is not KEY=VALUE.", "--set hidden=128")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


def one_line(exc: Exception) -> str:
    """Return a pydantic or YAML error as one readable line that names every offending key."""
    if isinstance(exc, ValidationError):
        return "; ".join(
            f"{'.'.join(str(p) for p in e['loc']) or 'value'}: {e['msg'].removeprefix('Value error, ')}"
            for e in exc.errors()
        )
    return " ".join(str(exc).split())


def _names_hint(model: type[BaseModel], exc: ValidationError) -> str:
    """Return the known names where an error is about an unknown one."""
    if all(e["type"] != "extra_forbidden" for e in exc.errors()):
        return ""
    return f"known: {', '.join(option_paths(model))}"
