"""Options that all commands share: which catalog, and how to open a stream in it."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

import batchweave as bw
from batchweave.cli.output import waiting
from batchweave.errors import BatchWeaveError, InvalidSettings, StreamNotFound

CATALOG = "BATCHWEAVE_CATALOG"
CATALOG_TYPE = "BATCHWEAVE_CATALOG_TYPE"
WAREHOUSE = "BATCHWEAVE_WAREHOUSE"
FOLDER_TYPES = ("object-store", "delta")
ALIKE = 0.7
HOW = (
    "give a folder or bucket: --warehouse ./warehouse (or BATCHWEAVE_WAREHOUSE), "
    "a catalog's properties: -p type=rest -p uri=https://…, or name one of ~/.pyiceberg.yaml "
    "(`batchweave --help` lists the types)"
)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Settings:
    """What the global options said. ``given`` tells an option from the environment."""

    catalog: str = "default"
    warehouse: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    debug: bool = False
    given: bool = False

    def take(self, values: dict[str, Any], *, given: bool) -> None:
        """Add what one level of the command line says; what comes later wins."""
        self.catalog = values["catalog"] or self.catalog
        self.warehouse = values["warehouse"] or self.warehouse
        if values["catalog_type"]:
            self.properties["type"] = values["catalog_type"]
        self.properties |= values["properties"]
        self.debug = self.debug or values["debug"]
        self.given = self.given or given

    def all_properties(self) -> dict[str, str]:
        """The catalog's properties, the warehouse among them."""
        found = dict(self.properties)
        if self.warehouse is not None:
            found["warehouse"] = self.warehouse
        return found


def global_options(*, environment: bool = False) -> Callable[[Callable[P, R]], Callable[..., R]]:
    """Take the catalog's options off a command and keep them in the context's `Settings`.

    ``environment`` is for the outermost level alone: an option there must win over a variable.
    """

    def decorate(function: Callable[P, R]) -> Callable[..., R]:
        @functools.wraps(function)
        def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
            context = click.get_current_context()
            names = ("catalog", "catalog_type", "warehouse", "properties", "debug")
            values = {name: options.pop(name) for name in names}
            context.ensure_object(Settings).take(values, given=_is_given(context))
            return function(*arguments, **options)

        found: Callable[..., R] = wrapped
        for option in reversed(_options(environment)):
            found = option(found)
        return found

    return decorate


def _is_given(context: click.Context) -> bool:
    said = click.core.ParameterSource.COMMANDLINE
    return any(
        context.get_parameter_source(name) is said
        for name in ("catalog", "catalog_type", "warehouse", "properties")
    )


def _options(environment: bool) -> list[Callable[..., Any]]:
    return [
        click.option(
            "--catalog",
            metavar="NAME",
            envvar=CATALOG if environment else None,
            show_envvar=environment,
            help="Catalog in ~/.pyiceberg.yaml, or any name with --warehouse. [default: default]",
        ),
        click.option(
            "--catalog-type",
            metavar="TYPE",
            envvar=CATALOG_TYPE if environment else None,
            show_envvar=environment,
            help="The same as -p type=TYPE: object-store, delta, sql, rest, glue, …",
        ),
        click.option(
            "--warehouse",
            metavar="PATH|URI",
            envvar=WAREHOUSE if environment else None,
            show_envvar=environment,
            help="Folder or bucket of the streams; no server is needed.",
        ),
        click.option(
            "--property",
            "-p",
            "properties",
            metavar="KEY=VALUE",
            multiple=True,
            callback=_pairs,
            help="A property of the catalog, as pyiceberg names them; repeatable.",
        ),
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
    ]


def _pairs(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    found = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"expected KEY=VALUE, got {text!r}")
        found[key] = value
    return found


def settings() -> Settings:
    """The settings of the running command."""
    return click.get_current_context().ensure_object(Settings)


def open_catalog(*, may_create: bool = False) -> bw.Catalog:
    """The catalog that the options name.

    Raises:
        InvalidSettings: none is named, or the folder that is named is not there.
    """
    chosen = settings()
    properties = chosen.all_properties()
    with waiting("opening the catalog"):
        check_configured(chosen.catalog, properties)
        # A catalog with a database or server may know streams that lie anywhere.
        by_folder = properties.get("type", FOLDER_TYPES[0]) in FOLDER_TYPES
        check_folder(chosen.warehouse, must_exist=by_folder and not may_create)
        return bw.load_catalog(chosen.catalog, **properties)


def configured(name: str) -> dict[str, Any]:
    """What ``~/.pyiceberg.yaml`` and the environment say of a catalog."""
    from pyiceberg.utils.config import Config

    return dict(Config().get_catalog_config(name) or {})


def check_configured(name: str, properties: dict[str, str]) -> None:
    """Refuse a catalog of which nothing is known but the name.

    Raises:
        InvalidSettings: it is so.
    """
    known = {**configured(name), **properties}
    if not {"type", "uri", "warehouse", "py-catalog-impl"} & set(known):
        error = InvalidSettings(f"no warehouse: nothing says where catalog {name!r} is")
        error.add_note(HOW)
        raise error


def check_folder(warehouse: str | None, *, must_exist: bool) -> None:
    """Refuse a warehouse that is a file, or that is not there but has to be.

    Raises:
        InvalidSettings: it is so.
    """
    if warehouse is None or "://" in warehouse or warehouse.startswith(("file:", "memory:")):
        return
    path = Path(warehouse)
    if path.exists() and not path.is_dir():
        raise InvalidSettings(f"the warehouse must be a folder; {warehouse!r} is a file")
    if must_exist and not path.is_dir():
        error = InvalidSettings(f"there is no folder {warehouse!r}")
        error.add_note("`batchweave create` makes it with the first stream")
        raise error


def open_stream(name: str) -> bw.Stream:
    """The stream of that name; a name that is not there meets those that are like it.

    Raises:
        StreamNotFound: with a note that names the close matches.
    """
    catalog = open_catalog()
    with waiting(f"loading {name}"):
        return find_stream(catalog, name)


def find_stream(catalog: bw.Catalog, name: str) -> bw.Stream:
    """`Catalog.load_stream`, with a suggestion where the name is not there."""
    try:
        return catalog.load_stream(name)
    except StreamNotFound as error:
        suggest(catalog, name, error)
        raise


def suggest(catalog: bw.Catalog, name: str, error: BatchWeaveError) -> None:
    """Note on the error which streams have a name like the one asked for."""
    near = [one for one in catalog.list_streams() if _is_like(name, one)]
    close = difflib.get_close_matches(name, near, n=3)
    if close:
        error.add_note(f"did you mean {' or '.join(close)}?")


def _is_like(asked: str, name: str) -> bool:
    """Whether namespace and name are alike each: a shared namespace alone is no likeness."""
    parts = zip(asked.split("."), name.split("."), strict=False)
    return all(
        difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio() >= ALIKE
        for one, other in parts
    )
