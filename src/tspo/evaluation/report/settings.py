"""The run's settings as the page shows them."""

from __future__ import annotations

from typing import Any

import yaml

_SECRETS = ("token", "secret", "password", "api_key")


def settings_text(settings: dict[str, Any]) -> str:
    """The settings as YAML without what gives access to something: a report is made to be passed on."""
    return yaml.safe_dump(without_secrets(settings), sort_keys=False, allow_unicode=True, width=110)


def without_secrets(value: Any, name: str = "") -> Any:
    """`value` with every text under a name of a secret replaced."""
    if isinstance(value, dict):
        return {key: without_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_secrets(inner, name) for inner in value]
    return "(not shown)" if isinstance(value, str) and name.lower().endswith(_SECRETS) else value
