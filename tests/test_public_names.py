"""The public names are complete, sorted and documented, and importing them starts nothing."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import batchweave

HEAVY = [
    "boto3", "click", "daft", "deltalake", "duckdb", "openlineage", "polars", "pyiceberg", "ray",
    "rich", "torch",
]  # fmt: skip


def names_bound_in(source: str) -> set[str]:
    """Public names that a module's top level binds, other than by importing foreign modules."""
    bound: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("batchweave"):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            bound.add(node.name)
        elif isinstance(node, ast.Assign):
            bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            bound.add(node.target.id)
    return {name for name in bound if not name.startswith("_")}


def undocumented(things: Mapping[str, object]) -> list[str]:
    """Names of the classes and functions among ``things`` that nobody wrote a docstring for."""
    found = []
    for name, thing in things.items():
        if inspect.isclass(thing) or inspect.isroutine(thing):
            text = thing.__doc__ or ""
            if not text.strip() or text.startswith(f"{thing.__name__}("):
                found.append(name)
    return found


def test_all_is_sorted_and_without_repeats() -> None:
    assert batchweave.__all__ == sorted(set(batchweave.__all__))


def test_every_name_resolves() -> None:
    missing = [name for name in batchweave.__all__ if not hasattr(batchweave, name)]
    assert missing == []


def test_no_public_name_is_left_out() -> None:
    assert batchweave.__file__ is not None
    bound = names_bound_in(Path(batchweave.__file__).read_text())
    assert bound - set(batchweave.__all__) == set()


def test_a_name_left_out_is_noticed() -> None:
    source = """
from __future__ import annotations
from typing import Any
from batchweave.mesh import Mesh
from batchweave.errors import _private
def load(): ...
LIMIT: int = 1
_hidden = 2
"""
    assert names_bound_in(source) == {"Mesh", "load", "LIMIT"}


def test_every_public_class_and_function_has_a_docstring() -> None:
    assert undocumented({name: getattr(batchweave, name) for name in batchweave.__all__}) == []


def test_a_class_without_a_docstring_is_noticed() -> None:
    @dataclass
    class Bare:  # @dataclass writes "Bare(size: int)" into __doc__
        size: int

    class Said:
        """Says what it is."""

    assert undocumented({"Bare": Bare, "Said": Said, "bare": lambda: None, "LIMIT": 1}) == [
        "Bare",
        "bare",
    ]


def test_importing_starts_nothing() -> None:
    program = f"""
import sys, threading
import batchweave
print(sorted(set({HEAVY!r}) & set(sys.modules)), threading.active_count())
"""
    # -I: neither the directory nor the environment of this run has a say.
    result = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.stdout.strip(), result.stderr) == ("[] 1", "")
