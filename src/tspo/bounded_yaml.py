"""YAML that is read in bounded time and memory: a few hundred bytes of it can mean billions of values."""

from __future__ import annotations

from typing import Any

import yaml

_BYTES = 1_000_000
_NODES = 100_000
"""Values that a text may mean, each alias counted as all that it stands for."""


class _Loader(yaml.SafeLoader):
    """Counts what each node stands for as it is composed."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """See yaml.composer."""
        node = super().compose_node(parent, index)
        if node is not None and id(node) not in self._sizes:
            inside: list[yaml.Node] = []
            if isinstance(node, yaml.SequenceNode):
                inside = list(node.value)
            elif isinstance(node, yaml.MappingNode):
                inside = [part for pair in node.value for part in pair]
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(part), 1) for part in inside)
            if self._sizes[id(node)] > _NODES:
                raise ValueError(f"it means more than {_NODES} values")
        return node


def load_yaml(text: str) -> Any:
    """What `text` says; raises ValueError in one line where it is no YAML, or too large, too deep or too much."""
    if len(text) > _BYTES:
        raise ValueError(f"it is longer than {_BYTES} characters")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
