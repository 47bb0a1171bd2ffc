"""Where no source is what was asked for: whether sources have the text inside of them.

Imports: standard library, lineage_graph.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

_ASKED = {"exact": "is exactly", "prefix": "begins with", "glob": "is like"}


@dataclass(frozen=True, slots=True)
class Near:
    """How many sources match a pattern; ``least`` says that there may be more in files."""

    pattern: str
    sources: int
    least: bool

    def sentence(self, text: str, match: str) -> str:
        """What is said of it, and how to ask for them; empty where nothing can be said."""
        if not self.sources:
            return "" if self.least else "No source contains it either."
        many = f"{'at least ' if self.least else ''}{self.sources:,}"
        contain = "contains" if self.sources == 1 else "contain"
        return (
            f"No source {_ASKED[match]} {text!r}, but {many} {contain} it: ask again with --glob "
            f"{shlex.quote(self.pattern)}."
        )


def pattern_inside(text: str, match: str) -> str | None:
    """The pattern of the sources that have a text inside; None where that was asked already."""
    if match == "glob":
        return None if "*" in text else f"*{text}*"
    literal = re.sub(r"[*?\[]", r"[\g<0>]", text.replace("\\", "\\\\"))
    return f"*{literal}*" if text else None
