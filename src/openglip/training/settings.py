"""Fields of a recipe as settings: changed by name, read from strings and JSON, written as JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from openglip.errors import ConfigError

if TYPE_CHECKING:
    from openglip.training.recipe import Recipe

AnyRecipe = TypeVar("AnyRecipe", bound="Recipe")


def with_settings(recipe: AnyRecipe, settings: Mapping[str, object]) -> AnyRecipe:
    """The recipe with some fields changed.

    Args:
        recipe: Any recipe; it stays as it is.
        settings: Values by field. Strings are parsed as JSON where the field is not a string.

    Raises:
        ConfigError: There is no such field (the message names the nearest one), or the value has another type.
    """
    hints = typing.get_type_hints(type(recipe))
    names = settings_of(recipe)
    changes = {}
    for name, value in settings.items():
        if name not in names:
            raise ConfigError(f"a recipe has no field {name!r}: {nearest(name, names)}")
        changes[name] = _parse(name, value, hints[name])
    return dataclasses.replace(recipe, **changes)


def nearest(name: str, names: Iterable[str]) -> str:
    """Advice for a message about an unknown name: the nearest known one, or all of them."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def to_json(recipe: Recipe) -> dict[str, Any]:
    """All settings as JSON values."""
    return json.loads(json.dumps(settings_of(recipe), default=dict))


def settings_of(recipe: Recipe) -> dict[str, object]:
    """All fields but those that are code; `model` is one of these where it is a function."""
    values = {
        each.name: getattr(recipe, each.name) for each in dataclasses.fields(recipe) if not each.metadata.get("code")
    }
    return {name: value for name, value in values.items() if not callable(value)}


def _parse(name: str, value: object, hint: Any) -> object:
    """The value of a field with this type hint, from a string of the command line or from JSON."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if is_union else (hint,)
    if type(None) in kinds and value in (None, "none", "None", "null"):
        return None
    kind = kinds[0]
    if isinstance(value, str) and kind is not str and typing.get_origin(kind) is not Literal:
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = _parse_plain(value, kind)
    origin = typing.get_origin(kind)
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{name} is {value!r}, it must be one of {', '.join(typing.get_args(kind))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_parse(name, item, typing.get_args(kind)[0]) for item in items)
    if origin is not None:  # a mapping from names
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {value!r}, it must be a JSON object")
        return {str(key): _parse(name, item, typing.get_args(kind)[1]) for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{name} is {value!r}, it must be of type {kind.__name__}")
    return value


def _parse_plain(text: str, kind: Any) -> object:
    """A string that is not JSON: items separated by commas, a number in Python's spelling, True or False."""
    if typing.get_origin(kind) is tuple:
        return tuple(item for item in text.split(",") if item)
    try:
        return float(text) if kind is float else {"true": True, "false": False}.get(text.lower(), text)
    except ValueError:
        return text
