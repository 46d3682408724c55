"""One road for options: frozen models, presets as data, dotted keys, and every fault in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from rwmdata.errors import RwmError
from rwmdata.limits import LARGEST


class Frozen(BaseModel):
    """Base of every configuration model: immutable, unknown keys refused, every number finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    """Named sets of values, nested or dotted, for :func:`build`."""
    default_preset: ClassVar[str | None] = None
    """Preset that is meant where none is named; None for the fields' own defaults."""
    main_option: ClassVar[str | None] = None
    """Option that is meant where one value stands for the whole: ``loss=nll`` is ``loss.kind=nll``."""

    @model_validator(mode="before")
    @classmethod
    def _from_main_option(cls, value: object) -> object:
        single = cls.main_option and not isinstance(value, Mapping | BaseModel)
        return {cls.main_option: value} if single else value

    @model_validator(mode="after")
    def _within_64_bits(self) -> Self:
        wrong = [name for name, value in self if isinstance(value, int) and abs(value) > LARGEST]
        if getattr(self, "seed", 0) < 0:
            wrong.append("seed")
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: expected a whole number of 64 bits, a seed of at least 0")
        return self


Model = TypeVar("Model", bound=Frozen)


def build(model: type[Model], preset: str | None = None, *changes: Mapping[str, object]) -> Model:
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
    try:
        return model.model_validate(_layered(model, model.presets[preset] if preset else {}, *changes))
    except ValidationError as exc:
        unknown = [".".join(map(str, e["loc"])) for e in exc.errors() if e["type"] == "extra_forbidden"]
        groups = {key.rpartition(".")[0] for key in unknown}
        beside = [path for path in option_paths(model) if path.rpartition(".")[0] in groups]
        hint = f"options: {', '.join(beside)}" if unknown else ""
        raise RwmError(f"The {label} configuration is not valid: {one_line(exc, option_paths(model))}.", hint) from exc


def label_of(model: type[BaseModel]) -> str:
    """Return what a configuration is called in errors: ``LambdaSweepConfig`` is a lambda sweep."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__.removesuffix("Config")).lower()


def path_of(model: type[BaseModel], key: str) -> str:
    """Return the dotted path of an option that may be given by its own name alone; an unknown key as it is.

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


def default_of(model: type[Frozen], key: str) -> object:
    """Return the default of an option, that of the default preset where it has one; None where there is none."""
    value: object = _layered(model, model.presets[model.default_preset] if model.default_preset else {})
    nested: type[Frozen] | None = model
    for part in path_of(model, key).split("."):
        field = nested.model_fields.get(part) if nested else None
        if field is None:
            return None
        value = value[part] if isinstance(value, Mapping) and part in value else field.get_default()
        nested = _configuration(field.annotation)
    return None if value is PydanticUndefined else value


def option_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Give the dotted paths of all options of a configuration, nested ones included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if (nested := _configuration(field.annotation)) is not None:
            yield from option_paths(nested, f"{prefix}{name}.")


def merge(lower: Mapping[str, object], upper: Mapping[str, object]) -> dict[str, object]:
    """Return nested options put together; those of ``upper`` win."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def read_settings(texts: Iterable[str], example: str = "--set hidden=128") -> dict[str, object]:
    """Return ``KEY=VALUE`` texts as options by dotted key; a value is JSON where it can be read as such.

    Raises:
        RwmError: A text has no key or no value.
    """
    settings: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise RwmError(f"'{text}' is not KEY=VALUE.", example)
        try:
            settings[key] = json.loads(value)
        except (ValueError, RecursionError):
            settings[key] = value
    return settings


def setting_text(value: object) -> str:
    """Return a value as :func:`read_settings` reads it: JSON, or a text that is none."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return value
    return json.dumps(value)


def flat(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested options by dotted key: ``loss.kind``."""
    options: dict[str, object] = {}
    for key, value in config.items():
        options |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return options


def one_line(exc: Exception, known: Iterable[str] = ()) -> str:
    """Return a pydantic or YAML error as one readable line that names every offending key.

    Args:
        exc: The error.
        known: Names that an unknown key may have been meant to be.
    """
    if not isinstance(exc, ValidationError):
        return " ".join(str(exc).split())
    names = {name.rpartition(".")[2]: name for name in known}
    faults = []
    for error in exc.errors():
        key, message = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden" and names:
            similar = get_close_matches(str(error["loc"][-1]), names, n=2)
            message = "is no option" + (f" (similar: {', '.join(names[name] for name in similar)})" if similar else "")
        faults.append(f"{key or 'value'}: {message}")
    return "; ".join(faults)


def _configuration(annotation: object) -> type[Frozen] | None:
    """Return the class of a nested configuration; None for another option."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Frozen) else None


def _nested_defaults(model: type[Frozen]) -> dict[str, object]:
    """Return what nested configurations have by default here that is not the default of their class."""
    values: dict[str, object] = {}
    for name, field in model.model_fields.items():
        if (nested := _configuration(field.annotation)) is not None:
            own = field.default.model_dump(exclude_unset=True) if isinstance(field.default, Frozen) else {}
            values[name] = merge(_nested_defaults(nested), own)
    return values


def _layered(model: type[Frozen], *layers: Mapping[str, object]) -> dict[str, object]:
    """Return options put together, nested, later ones winning."""
    values = _nested_defaults(model)
    for key, value in (item for layer in layers for item in layer.items()):
        values = merge(values, _nest(_value_path(model, key, value), value))
    return values


def _value_path(model: type[Frozen], key: str, value: object) -> str:
    """Return the dotted path a value belongs under, that of the main option for a nested configuration as one value."""
    path = path_of(model, key)
    nested: type[Frozen] | None = model
    for part in path.split("."):
        field = nested.model_fields.get(part) if nested else None
        nested = _configuration(field.annotation) if field else None
    single = nested and nested.main_option and not isinstance(value, Mapping | BaseModel)
    return f"{path}.{nested.main_option}" if nested and single else path


def _nest(path: str, value: object) -> dict[str, object]:
    """Return a value under its dotted path: ``loss.decay`` and 0.9 are ``{"loss": {"decay": 0.9}}``."""
    first, dot, rest = path.partition(".")
    return {first: _nest(rest, value) if dot else value}
