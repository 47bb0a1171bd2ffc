"""Imports point one way, and the core stands on the standard library, pyarrow, obstore and numpy.

To add a module, put its name into ``CORE`` after everything that it imports and before everything
that imports it; a new top-level package goes into ``OUTER`` in the same way.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each may import those before it, and nothing after it.
CORE = [
    "errors",
    "events",
    "clock",
    "pauses",
    "settings",
    "dac",
    "mesh",
    "columns",
    "aws_credentials",
    "store_clients",
    "s3_store",
    "cloud_stores",
    "store_errors",
    "objects",
    "conditional_writes",
    "paths",
    "runs",
    "side_objects",
    "state",
    "table",
    "parquet",
    "batch",
    "commit",
    "session",
    "producer",
    "reader",
    "checkpoints",
    "ledger",
    "sweep",
    "retention",
    "lineage",
    "stream",
    "catalog",
    "assemble",
]
OUTER = ["catalogs", "connectors", "sql"]
# These, and batchweave/__init__.py, may import anything.
TOP = ["cli", "demo", "testing"]
LINKED = {name: ROOT / name for name in OUTER}

# boto3 and botocore: only to look for AWS credentials where none are given.
CORE_MAY_IMPORT = {"boto3", "botocore", "numpy", "obstore", "pyarrow", *sys.stdlib_module_names}
BARE = {"catalogs", "connectors", "sql"}


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, wherever it stands; ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def violations(unit: str, source: str) -> list[str]:
    """What is wrong with the imports of ``source``, a module of ``batchweave.<unit>``."""
    order = [*CORE, *OUTER]
    found = []
    for line, name in imported(source):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top == "":
            found.append(f"line {line}: {name} is relative; write batchweave.… in full")
        elif top in BARE:
            found.append(f"line {line}: {name} is imported as batchweave.{name}")
        elif unit in TOP or unit in ("__init__", "__main__"):
            continue
        elif top == "batchweave":
            if target not in order:
                found.append(f"line {line}: {unit} imports {name}, not from a module before it")
            elif target != unit and order.index(target) > order.index(unit):
                found.append(f"line {line}: {unit} imports {name}, which comes after it")
        elif unit in CORE and top not in CORE_MAY_IMPORT:
            found.append(f"line {line}: {unit} is core and imports {top}")
    return found


def modules() -> list[tuple[str, Path]]:
    """Every module of the package with its unit: the name after ``batchweave.``."""
    found = []
    for path in sorted((ROOT / "batchweave").rglob("*.py")):
        unit = path.relative_to(ROOT / "batchweave").parts[0].removesuffix(".py")
        if unit not in LINKED:
            found.append((unit, path))
    for unit, directory in LINKED.items():
        found += [(unit, path) for path in sorted(directory.rglob("*.py"))]
    return found


@pytest.mark.parametrize(
    ("unit", "path"),
    [pytest.param(unit, path, id=str(path.relative_to(ROOT))) for unit, path in modules()],
)
def test_imports_point_one_way(unit: str, path: Path) -> None:
    known = [*CORE, *OUTER, *TOP, "__init__", "__main__"]
    assert unit in known, (
        f"{path.relative_to(ROOT)} has no place in the order of imports: add {unit!r} to CORE in"
        " tests/test_imports.py, after all that it imports"
    )
    assert violations(unit, path.read_text()) == []


@pytest.mark.parametrize("directory", ["examples", "tests"])
def test_nothing_is_imported_around_the_package(directory: str) -> None:
    found = {
        str(path.relative_to(ROOT)): name
        for path in sorted((ROOT / directory).rglob("*.py"))
        for _, name in imported(path.read_text())
        if name.partition(".")[0] in BARE
    }
    assert found == {}


def test_links_lead_to_the_packages() -> None:
    for name, directory in LINKED.items():
        link = ROOT / "batchweave" / name
        assert link.is_symlink(), f"{link} must be a link to ../{name}"
        assert link.resolve() == directory
        assert not link.readlink().is_absolute()


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("mesh", "from batchweave.stream import Stream"),
        ("mesh", "import batchweave.stream"),
        ("mesh", "from batchweave import stream"),
        ("mesh", "from batchweave import Mesh"),
        ("mesh", "import batchweave as bw"),
        ("mesh", "from .errors import InvalidMesh"),
        ("mesh", "from . import errors"),
        ("mesh", "def f():\n    import torch"),
        ("mesh", "def f():\n    from pyiceberg.catalog import Catalog"),
        ("stream", "from batchweave.catalogs.iceberg import X"),
        ("catalog", "import batchweave.cli"),
        ("catalogs", "from batchweave.sql import session"),
        ("catalogs", "import sql.session"),
        ("cli", "import sql"),
    ],
)
def test_a_planted_violation_is_found(unit: str, source: str) -> None:
    assert len(violations(unit, source)) == 1


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("mesh", "from batchweave.errors import InvalidMesh"),
        ("mesh", "from batchweave import errors"),
        ("objects", "import json, obstore.store, pyarrow.parquet"),
        ("catalogs", "import pyiceberg\nfrom batchweave.catalogs.iceberg import X"),
        ("sql", "import duckdb\nfrom batchweave.stream import Stream"),
        ("cli", "import click\nimport batchweave as bw"),
        ("__init__", "from batchweave.stream import Stream"),
    ],
)
def test_a_proper_import_is_not(unit: str, source: str) -> None:
    assert violations(unit, source) == []
