"""Labels that the operator gives nodes, beside those that the nodes' agents state."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final


class NodeLabels:
    """Labels by patterns of nodes' names.

    Args:
        text: `NODES:KEY=VALUE` by commas, NODES a shell pattern, such as `gpu-r1-*:kezek.kz/rack=r1`. Of several
            values that a node gets for one key the last counts.

    Raises:
        ValueError: an item of the text is none.
    """

    def __init__(self, text: str = "") -> None:
        self._items: Final[list[tuple[str, str, str]]] = []
        for item in filter(None, text.split(",")):
            nodes, _, label = item.partition(":")
            key, _, value = label.partition("=")
            if not (nodes and key and value):
                raise ValueError(f"{item} is no NODES:KEY=VALUE, such as gpu-r1-*:kezek.kz/rack=r1")
            self._items.append((nodes, key, value))

    def of(self, node: str) -> Mapping[str, str]:
        """The labels of a node."""
        return {key: value for nodes, key, value in self._items if fnmatchcase(node, nodes)}
