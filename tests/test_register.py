"""A stream's folder can be adopted by another catalog, and is never two catalogs' at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException, ForbiddenError

import batchweave as bw
from batchweave.catalogs import registration
from batchweave.catalogs.iceberg_catalog import IcebergCatalog
from batchweave.catalogs.moves import moved_to
from batchweave.catalogs.object_store import ObjectStoreCatalog
from tests.streams import QUICK, TOKENS, catalog_at, make_stream, numbers, publish_numbers

NAME = "demo.tokens"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The table folder of a stream of five steps, made by an object-store catalog."""
    fill(make_stream(tmp_path / "w", name=NAME))
    return tmp_path / "w" / "demo" / "tokens"


def fill(stream: bw.Stream, first: int = 0, count: int = 5) -> bw.Stream:
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, first, count)
    return stream


@pytest.fixture
def properties(tmp_path: Path) -> dict[str, str]:
    """A catalog on SQLite."""
    home = tmp_path / "sql"
    home.mkdir()
    return {"type": "sql", "uri": f"sqlite:///{home}/c.db", "warehouse": str(home)}


@pytest.fixture
def catalog(properties: dict[str, str]) -> bw.Catalog:
    return bw.load_catalog("new", **properties)


def old_catalog(folder: Path) -> bw.Catalog:
    return catalog_at(folder.parent.parent)


def pyiceberg_of(catalog: bw.Catalog) -> Any:
    assert isinstance(catalog.tables, IcebergCatalog)
    return catalog.tables.catalog


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


# -- it works ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["postgres", "glue"])
def test_a_stream_goes_on_in_the_catalog_that_adopted_it(
    kind: str, catalog_properties: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    catalog = bw.load_catalog("new", **catalog_properties(kind))
    source = {"type": "object-store", "warehouse": str(tmp_path / "w")}
    if kind == "glue":
        source = catalog_properties("object-store-s3")
    old = bw.load_catalog("old", **source)
    stream = fill(old.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2)))
    adopted = catalog.register_stream("adopted.tokens", stream.table.objects.uri)
    assert numbers(adopted) == [0, 1, 2, 3, 4]
    fill(catalog.load_stream("adopted.tokens"), 5, 40)
    assert numbers(catalog.load_stream("adopted.tokens"), 1) == list(range(45))
    assert catalog.list_streams() == ["adopted.tokens"]
    assert old.list_streams() == []
    with pytest.raises(bw.StreamMoved, match=r"'adopted\.tokens' in the "):
        old.load_stream(NAME)


def test_producers_keep_their_positions_and_generations(folder: Path, catalog: bw.Catalog) -> None:
    adopted = catalog.register_stream("a.b.c", str(folder))
    with adopted.producer("p", QUICK) as producer:
        assert (producer.position, producer.generation) == (4, 2)
        publish_numbers(producer, 5, 3)
    assert [entry.sequence for entry in adopted.batches()] == list(range(8))


def test_the_same_call_again_changes_nothing(folder: Path, catalog: bw.Catalog) -> None:
    fill(catalog.register_stream(NAME, str(folder)), 5)
    version = catalog.load_stream(NAME).table.head().version
    again = catalog.register_stream(NAME, str(folder))
    assert (numbers(again), again.table.head().version) == (list(range(10)), version)


def test_the_command_line_registers_in_a_process_of_its_own(
    folder: Path, properties: dict[str, str]
) -> None:
    options = [f"-p{key}={text}" for key, text in properties.items()]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "batchweave", *arguments, *options]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, input=""
        )

    unasked = run("register", str(folder), "x.y")
    assert (unasked.returncode, "give --yes" in unasked.stderr) == (2, True)
    done = run("register", str(folder), "x.y", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "stream": "x.y", "location": f"file://{folder}", "next_step": 5
    }  # fmt: skip
    described = json.loads(run("describe", "x.y", "--json").stdout)
    assert described["size"]["batches"] == 5
    old = subprocess.run(
        [sys.executable, "-m", "batchweave", "describe", NAME, "--warehouse", folder.parent.parent],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert old.returncode == 1
    assert "is now 'x.y' in the sql catalog at sqlite:///" in old.stderr
    assert "hint: give that catalog" in old.stderr


# -- one folder, one catalog -------------------------------------------------------------------


def test_a_writer_through_the_old_catalog_cannot_fork_the_stream(
    folder: Path, catalog: bw.Catalog
) -> None:
    stream = old_catalog(folder).load_stream(NAME)
    base = stream.table.head()
    writer = stream.producer("late", QUICK)
    publish_numbers(writer, 5, 1)
    writer.flush()
    stale = stream.table.head()
    adopted = catalog.register_stream(NAME, str(folder))
    publish_numbers(writer, 6, 1)
    with pytest.raises(bw.StreamMoved):
        writer.flush()
    with pytest.raises(bw.StreamMoved):
        stream.producer("another", QUICK)
    with pytest.raises(bw.StreamMoved):
        stream.seal()
    for head in (base, stale):  # what a writer that slept would do
        outcome = stream.table.commit(head, bw_change(head))
        assert type(outcome).__name__ in ("Lost", "Unknown")
    newest = ObjectStoreCatalog("raw", warehouse=str(folder.parent.parent))
    with pytest.raises(bw.StreamMoved):
        newest.load_table(("demo", "tokens"))
    assert numbers(adopted) == [0, 1, 2, 3, 4, 5]
    with adopted.producer("late", QUICK) as resumed:
        assert resumed.position == 5
        publish_numbers(resumed, 6, 1)
    assert numbers(adopted) == [0, 1, 2, 3, 4, 5, 6]


def bw_change(head: Any) -> Any:
    from batchweave.table import Change

    return Change(head.state)


def test_whatever_a_busy_writer_was_told_is_committed_is_in_the_adopted_stream(
    folder: Path, catalog: bw.Catalog
) -> None:
    stream = old_catalog(folder).load_stream(NAME)
    committed: list[int] = []
    began = threading.Event()
    ended: list[BaseException] = []

    def write() -> None:
        try:
            with stream.producer("busy", QUICK) as producer:
                for number in range(5, 10_000):
                    publish_numbers(producer, number, 1)
                    producer.flush()
                    committed.append(number)
                    began.set()
        except bw.BatchWeaveError as error:
            ended.append(error)
            began.set()

    thread = threading.Thread(target=write)
    thread.start()
    assert began.wait(60)
    adopted = catalog.register_stream(NAME, str(folder))
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(ended[0], bw.StreamMoved) or isinstance(ended[0].__cause__, bw.StreamMoved)
    assert numbers(adopted) == [0, 1, 2, 3, 4, *committed]


def test_a_pyiceberg_program_on_the_old_catalog_is_stopped_as_well(
    folder: Path, catalog: bw.Catalog
) -> None:
    raw = ObjectStoreCatalog("raw", warehouse=str(folder.parent.parent))
    table = raw.load_table(("demo", "tokens"))
    catalog.register_stream(NAME, str(folder))
    rows = table.scan().to_arrow()
    with pytest.raises((bw.StreamMoved, CommitFailedException)):
        table.append(rows)
    with pytest.raises(bw.StreamMoved):
        raw.drop_table(("demo", "tokens"))
    assert len(catalog.load_stream(NAME).sql("from samples")) == len(rows)


def test_readers_through_the_old_catalog_are_told_instead_of_waiting_for_ever(
    folder: Path, catalog: bw.Catalog
) -> None:
    old = old_catalog(folder)
    stream = old.load_stream(NAME)
    with stream.read(slice=0, follow=True) as reader:
        for _ in range(5):
            next(reader)
        catalog.register_stream(NAME, str(folder))
        with pytest.raises(bw.StreamMoved):
            next(reader)
    with pytest.raises(bw.StreamMoved):
        old.drop_stream(NAME)
    with pytest.raises(bw.StreamExists):
        old.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    assert old.list_streams() == []
    assert numbers(catalog.load_stream(NAME)) == [0, 1, 2, 3, 4]


def test_a_third_catalog_is_refused_unless_it_takes_over(
    folder: Path, catalog: bw.Catalog, tmp_path: Path
) -> None:
    catalog.register_stream(NAME, str(folder))
    third = bw.load_catalog(
        "third", type="sql", uri=f"sqlite:///{tmp_path}/third.db", warehouse=str(tmp_path)
    )
    for other, name in ((third, NAME), (catalog, "demo.other"), (old_catalog(folder), NAME)):
        with pytest.raises(bw.StreamMoved, match=r"has moved and is now 'demo\.tokens' in the sql"):
            other.register_stream(name, str(folder))
    assert third.list_streams() == []
    assert numbers(third.register_stream(NAME, str(folder), take_over=True)) == [0, 1, 2, 3, 4]


def test_taking_over_in_the_folders_own_catalog_lets_its_writers_go_on(
    folder: Path, catalog: bw.Catalog
) -> None:
    catalog.register_stream(NAME, str(folder))
    pyiceberg_of(catalog).drop_table(("demo", "tokens"))  # forgotten, not purged
    old = old_catalog(folder)
    assert numbers(fill(old.register_stream(NAME, str(folder), take_over=True), 5)) == [*range(10)]
    assert old.list_streams() == [NAME]


def test_a_stream_that_was_dropped_from_its_catalog_is_not_set_back_by_registering_it(
    folder: Path, catalog: bw.Catalog
) -> None:
    fill(catalog.register_stream(NAME, str(folder)), 5)
    pyiceberg_of(catalog).drop_table(("demo", "tokens"))
    with pytest.raises(bw.StreamMoved, match="commits followed there"):
        catalog.register_stream(NAME, str(folder))


def test_a_rest_server_that_refuses_the_folder_leaves_its_writers_alone(
    catalog_properties: Callable[[str], dict[str, str]],
) -> None:
    """SeaweedFS's server takes only what lies in its own table bucket."""
    old = bw.load_catalog("old", **catalog_properties("object-store-s3"))
    stream = fill(old.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2)))
    catalog = bw.load_catalog("new", **catalog_properties("rest"))
    with pytest.raises(bw.InvalidSettings, match="must be within bucket"):
        catalog.register_stream(NAME, stream.table.objects.uri)
    assert numbers(fill(stream, 5)) == [*range(10)]


# -- crashes and refusals ----------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


def test_after_a_crash_the_same_call_goes_on(
    folder: Path, catalog: bw.Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pyiceberg_of(catalog), "register_table", killed)
        with pytest.raises(Killed):
            catalog.register_stream(NAME, str(folder))
    assert catalog.list_streams() == []
    with pytest.raises(bw.StreamMoved):
        old_catalog(folder).load_stream(NAME)
    assert numbers(fill(catalog.register_stream(NAME, str(folder)), 5)) == [*range(10)]


def test_an_answer_that_was_lost_leaves_the_writers_stopped_and_is_found_by_the_next_call(
    folder: Path, catalog: bw.Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = pyiceberg_of(catalog)
    register = raw.register_table

    def lost(*arguments: Any) -> None:
        register(*arguments)
        raise ConnectionResetError("reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(raw, "register_table", lost)
        with pytest.raises(bw.StoreUnavailable, match="the same call again goes on"):
            catalog.register_stream(NAME, str(folder))
    with pytest.raises(bw.StreamMoved):
        old_catalog(folder).load_stream(NAME)
    assert numbers(catalog.register_stream(NAME, str(folder))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (ForbiddenError("no"), bw.StoreDenied),
        (NotImplementedError("never"), bw.InvalidSettings),
    ],
)
def test_a_refusal_lets_the_old_writers_go_on(
    folder: Path,
    catalog: bw.Catalog,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Exception,
    told: type[bw.BatchWeaveError],
) -> None:
    def refuse(*arguments: Any) -> None:
        raise refusal

    monkeypatch.setattr(pyiceberg_of(catalog), "register_table", refuse)
    with pytest.raises(told):
        catalog.register_stream(NAME, str(folder))
    assert numbers(fill(old_catalog(folder).load_stream(NAME), 5)) == [*range(10)]
    assert catalog.list_streams() == []


# -- several adopters at once ------------------------------------------------------------------


def sql_catalog(home: Path, name: str) -> bw.Catalog:
    uri = f"sqlite:///{home}/{name}.db"
    return bw.load_catalog(name, type="sql", uri=uri, warehouse=str(home))


@pytest.mark.parametrize("take_over", [False, True])
def test_of_two_adopters_at_once_one_has_the_stream(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take_over: bool
) -> None:
    first, second = sql_catalog(tmp_path, "first"), sql_catalog(tmp_path, "second")
    if take_over:
        sql_catalog(tmp_path, "third").register_stream(NAME, str(folder))
    mark = registration._Source.mark

    def overtaken(source: Any, place: Any) -> None:
        monkeypatch.setattr(registration._Source, "mark", mark)
        second.register_stream(NAME, str(folder), take_over=take_over)
        mark(source, place)

    monkeypatch.setattr(registration._Source, "mark", overtaken)
    with pytest.raises(bw.StreamMoved, match=r"second\.db"):
        first.register_stream(NAME, str(folder), take_over=take_over)
    assert first.list_streams() == []
    assert numbers(fill(second.load_stream(NAME), 5)) == [*range(10)]


def refuse(*arguments: Any) -> None:
    raise ForbiddenError("no right")


def test_a_refused_adopter_leaves_the_mark_of_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sql_catalog(tmp_path, "first"), sql_catalog(tmp_path, "second")

    def taken_over(*arguments: Any) -> None:
        second.register_stream(NAME, str(folder), take_over=True)
        refuse()

    monkeypatch.setattr(pyiceberg_of(first), "register_table", taken_over)
    with pytest.raises(bw.StoreDenied, match="stays marked as moved"):
        first.register_stream(NAME, str(folder))
    with pytest.raises(bw.StreamMoved, match=r"second\.db"):
        old_catalog(folder).load_stream(NAME)
    assert numbers(fill(second.load_stream(NAME), 5)) == [*range(10)]


def test_a_refused_adopter_leaves_the_mark_that_another_of_the_same_place_relies_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, other = sql_catalog(tmp_path, "same"), sql_catalog(tmp_path, "same")
    monkeypatch.setattr(pyiceberg_of(refused), "register_table", refuse)
    register = pyiceberg_of(other).register_table

    def late(*arguments: Any) -> Any:
        with pytest.raises(bw.StoreDenied):
            refused.register_stream(NAME, str(folder))
        return register(*arguments)

    monkeypatch.setattr(pyiceberg_of(other), "register_table", late)
    assert numbers(other.register_stream(NAME, str(folder))) == [*range(5)]
    with pytest.raises(bw.StreamMoved):
        old_catalog(folder).load_stream(NAME)


def test_a_refusal_that_cannot_be_looked_into_leaves_the_writers_stopped(
    folder: Path, catalog: bw.Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = pyiceberg_of(catalog)

    def refused_then_gone(*arguments: Any) -> None:
        patch.setattr(raw, "load_table", gone)
        refuse()

    def gone(*arguments: Any) -> None:
        raise ConnectionResetError("reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(raw, "register_table", refused_then_gone)
        with pytest.raises(bw.StoreUnavailable, match="the same call again goes on"):
            catalog.register_stream(NAME, str(folder))
    with pytest.raises(bw.StreamMoved):
        old_catalog(folder).load_stream(NAME)
    assert numbers(catalog.register_stream(NAME, str(folder))) == [*range(5)]


def test_what_a_catalog_says_of_a_registration_shows_no_statement_and_no_password(
    folder: Path, properties: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = bw.load_catalog("new", **properties, token="hunter2")

    def fail(*arguments: Any) -> None:
        raise RuntimeError("the database is locked, hunter2\n[SQL: INSERT INTO iceberg_tables]")

    monkeypatch.setattr(pyiceberg_of(catalog), "register_table", fail)
    with pytest.raises(bw.StoreUnavailable, match="the database is locked") as told:
        catalog.register_stream(NAME, str(folder))
    assert "INSERT" not in str(told.value)
    assert "hunter2" not in str(told.value)


# -- bad input ---------------------------------------------------------------------------------


def plain_iceberg(root: Path) -> Path:
    raw = ObjectStoreCatalog("raw", warehouse=str(root))
    raw.create_namespace("demo")
    raw.create_table(("demo", "plain"), pa.schema([("a", pa.int64())]))
    return root / "demo" / "plain"


def of_version(version: int) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        make_stream(root)
        metadata = root / "demo" / "tokens" / "metadata" / "v1.metadata.json"
        known = json.loads(metadata.read_text())
        known["format-version"] = version
        known["next-row-id"] = 0
        metadata.write_text(json.dumps(known))
        return root / "demo" / "tokens"

    return make


def delta_table(root: Path) -> Path:
    deltalake.write_deltalake(str(root / "demo" / "d"), pa.table({"a": [1]}))
    return root / "demo" / "d"


def copied(root: Path) -> Path:
    make_stream(root / "one")
    shutil.copytree(root / "one", root / "two")
    return root / "two" / "demo" / "tokens"


def made_by_a_database(root: Path) -> Path:
    root.mkdir()
    catalog = bw.load_catalog(
        "s", type="sql", uri=f"sqlite:///{root}/s.db", warehouse=str(root / "files")
    )
    stream = catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    return Path(stream.table.objects.uri.removeprefix("file://"))


def newer(root: Path) -> Path:
    make_stream(root)
    metadata = root / "demo" / "tokens" / "metadata" / "v1.metadata.json"
    text = metadata.read_text()
    metadata.write_text(
        text.replace('"batchweave.format-version":"1"', '"batchweave.format-version":"99"')
    )
    assert metadata.read_text() != text
    return root / "demo" / "tokens"


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda root: root / "nowhere" / "x", bw.StreamNotFound, "no stream's table in"),
        (plain_iceberg, bw.NotAStream, "not a BatchWeave stream"),
        (of_version(3), bw.UnsupportedFormat, "Iceberg v3"),
        (newer, bw.UnsupportedFormat, "upgrade BatchWeave"),
        (delta_table, bw.UnsupportedFormat, "type delta"),
        (copied, bw.InvalidSettings, "copied or moved"),
        (made_by_a_database, bw.UnsupportedFormat, "no object-store catalog made"),
        (lambda root: Path("/"), bw.InvalidSettings, "no namespace above"),
    ],
)
def test_what_cannot_be_adopted_is_refused_and_nothing_is_written(
    make: Callable[[Path], Path],
    error: type[bw.BatchWeaveError],
    says: str,
    catalog: bw.Catalog,
    tmp_path: Path,
) -> None:
    given = make(tmp_path / "given")
    before = files_below(tmp_path / "given")
    with pytest.raises(error, match=says):
        catalog.register_stream(NAME, str(given))
    assert files_below(tmp_path / "given") == before
    assert catalog.list_streams() == []
    assert pyiceberg_of(catalog).list_namespaces() == []


def test_a_name_that_is_taken_or_wrong_is_refused_and_nothing_is_written(
    folder: Path, catalog: bw.Catalog
) -> None:
    catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    pyiceberg_of(catalog).create_table(("demo", "plain"), pa.schema([("a", pa.int64())]))
    before = files_below(folder)
    for name in (NAME, "demo.plain"):
        with pytest.raises(bw.StreamExists, match="choose another name"):
            catalog.register_stream(name, str(folder))
    with pytest.raises(bw.InvalidName):
        catalog.register_stream("tokens", str(folder))
    with pytest.raises(bw.InvalidSettings, match="cannot open"):
        catalog.register_stream("a.b", "nfs://host/a/b")
    with pytest.raises(bw.InvalidSettings, match="this process's own"):
        catalog.register_stream("a.b", "memory://x/a/b")
    assert files_below(folder) == before


def test_a_password_of_the_new_catalog_is_not_written_into_the_old_folder(folder: Path) -> None:
    from batchweave.catalogs.moves import Place

    class Known:
        properties = {  # noqa: RUF012 - as pyiceberg's catalogs have them
            "type": "sql",
            "uri": "postgresql+psycopg://me:hunter2@db.example.com:5432/streams?password=hunter3",
            "warehouse": "s3://bucket/w/",
        }

    place = Place.of(Known(), ("a", "b"))  # type: ignore[arg-type] # all that it looks at
    assert "hunter" not in place.to_text() + repr(place) + str(place)
    assert Place.from_text(place.to_text()) == place
    assert (
        str(place) == "'a.b' in the sql catalog at postgresql+psycopg://db.example.com:5432/streams"
    )


# -- catalogs that find streams by their folders -----------------------------------------------


@pytest.mark.parametrize("kind", ["object-store", "delta"])
def test_a_folder_in_its_own_place_is_adopted_as_it_is(kind: str, tmp_path: Path) -> None:
    catalog = bw.load_catalog("c", type=kind, warehouse=str(tmp_path / "w"))
    fill(catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2)))
    (tmp_path / "w" / "demo" / "namespace.json").unlink(missing_ok=True)
    folder = tmp_path / "w" / "demo" / "tokens"
    assert numbers(fill(catalog.register_stream(NAME, f"{folder}/"), 5)) == [*range(10)]
    assert catalog.list_streams() == [NAME]


@pytest.mark.parametrize("kind", ["object-store", "delta"])
def test_a_folder_elsewhere_or_of_another_name_is_refused(kind: str, tmp_path: Path) -> None:
    catalog = bw.load_catalog("c", type=kind, warehouse=str(tmp_path / "w"))
    catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    with pytest.raises(bw.InvalidSettings, match=r"is 'demo\.tokens', and cannot be 'a\.b'"):
        catalog.register_stream("a.b", str(tmp_path / "w" / "demo" / "tokens"))
    with pytest.raises(bw.InvalidSettings, match="does not lie below the warehouse"):
        catalog.register_stream(NAME, str(tmp_path / "other" / "demo" / "tokens"))
    with pytest.raises(bw.StreamNotFound):
        catalog.register_stream("a.b", str(tmp_path / "w" / "a" / "b"))
    other = {"object-store": "delta", "delta": "object-store"}[kind]
    with pytest.raises((bw.NotAStream, bw.UnsupportedFormat), match=r"Delta|Iceberg"):
        bw.load_catalog("c", type=other, warehouse=str(tmp_path / "w")).register_stream(
            NAME, str(tmp_path / "w" / "demo" / "tokens")
        )


def test_the_mark_is_read_whatever_it_says(folder: Path) -> None:
    table = ObjectStoreCatalog("raw", warehouse=str(folder.parent.parent)).load_table(
        ("demo", "tokens")
    )
    for text in ("", "{}", "nonsense", '{"a": 1}', "[]"):
        marked = table.metadata.model_copy(
            update={"properties": {**table.metadata.properties, "batchweave.moved-to": text}}
        )
        assert (moved_to(marked) is not None) is bool(text)
