"""The run's settings as the page shows them."""

from __future__ import annotations

from typing import Any

import yaml

_SECRETS = ("token", "secret", "password", "api_key")


def settings_text(settings: dict[str, Any]) -> str:
    """The settings as YAML without what gives access to something: a report is made to be passed on."""
    return yaml.safe_dump(_without_secrets(settings), sort_keys=False, allow_unicode=True, width=110)


def _without_secrets(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner, name) for inner in value]
    return "(not shown)" if isinstance(value, str) and name.lower().endswith(_SECRETS) else value
