"""Settings that are gone: a configuration that still has them is told where they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tspo.errors import BadInput
from tspo.old_trl_settings import TRL, Line

OLD: dict[str, Line | Mapping[str, Line]] = {
    "training.trl": TRL,
}
"""Of each dotted key that is gone what is said of it, or of a section each of its keys; a section may stay empty."""

_NEVER = "is not a setting; tspo settings lists those there are"


def without_old_settings(settings: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The settings without sections that are gone and hold nothing, as files of older versions have them.

    Raises BadInput with a line for each setting that is gone; `where` is what they were read from.
    """
    kept = _kept(settings)
    if lines := [f"{where}: {key}: {line}" for key, line in _gone(settings)]:
        raise BadInput("\n".join(lines))
    return kept


def _kept(settings: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    return {
        key: _kept(value, f"{place}{key}.") if isinstance(value, dict) else value
        for key, value in settings.items()
        if f"{place}{key}" not in OLD
    }


def _gone(settings: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        name = f"{place}{key}"
        if name in OLD:
            yield from _said(name, OLD[name], value)
        elif isinstance(value, dict):
            yield from _gone(value, f"{name}.")


def _said(name: str, old: Line | Mapping[str, Line], value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(old, Mapping):
        yield name, old if isinstance(old, str) else old(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _said(f"{name}.{key}", old.get(key, _NEVER), inner)
    elif value is not None:
        yield name, _NEVER
