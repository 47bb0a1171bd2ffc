"""What every store promises, whichever it is: one set of tests that all implementations pass."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import obstore.exceptions
import pytest
from obstore.store import MemoryStore

from batchweave.errors import (
    BatchWeaveError,
    InvalidSettings,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from batchweave.objects import MemoryObjects, Objects, ObstoreObjects, join, open_objects, split_uri

OBSTORE_ERRORS = [
    one
    for one in vars(obstore.exceptions).values()
    if isinstance(one, type) and issubclass(one, Exception)
]
THREADS = 16


def _local(tmp_path: Path) -> Objects:
    return open_objects(str(tmp_path / "a folder" / "für Träume #x"))


@pytest.fixture(params=["memory", "local", "local-within", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty root: in memory, in a local folder, in a folder of it, below a bucket's prefix."""
    made: dict[str, Callable[[], Objects]] = {
        "memory": MemoryObjects,
        "local": lambda: _local(tmp_path),
        "local-within": lambda: _local(tmp_path).within("ein Ordner/ü"),
        "bucket": lambda: ObstoreObjects(MemoryStore(), "s3://bucket/some/prefix", "some/prefix"),
    }
    return made[request.param]()


def _paths(objects: Objects, prefix: str = "") -> list[str]:
    return sorted(info.path for info in objects.list(prefix))


class TestEveryStore:
    def test_what_was_written_is_read(self, objects: Objects) -> None:
        for path, data in {"a": b"1", "b/c/d e.txt": b"22", "b/ü": b"", "z": bytes(10**6)}.items():
            tag = objects.create(path, data)
            found, found_tag = objects.get(path)
            info = objects.head(path)
            assert bytes(found) == data
            assert (info.path, info.size) == (path, len(data))
            assert tag == found_tag == info.e_tag != ""

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_can_be_written(
        self, objects: Objects, kind: Callable[[bytes], Any]
    ) -> None:
        objects.create("x", kind(b"abc"))
        objects.overwrite("y", kind(b"abc"))
        assert bytes(objects.get("x")[0]) == bytes(objects.get("y")[0]) == b"abc"

    def test_create_never_replaces(self, objects: Objects) -> None:
        objects.create("x", b"first")
        with pytest.raises(ObjectExists, match="x"):
            objects.create("x", b"second")
        assert bytes(objects.get("x")[0]) == b"first"

    def test_one_of_many_racing_creators_wins(self, objects: Objects) -> None:
        for round_number in range(5):
            start = threading.Barrier(THREADS)
            won: list[int] = []
            lost: list[int] = []

            def race(
                me: int,
                start: threading.Barrier = start,
                path: str = f"versions/v{round_number}",
                won: list[int] = won,
                lost: list[int] = lost,
            ) -> None:
                start.wait()
                try:
                    objects.create(path, b"%d" % me * 1000)
                    won.append(me)
                except ObjectExists:
                    lost.append(me)

            threads = [threading.Thread(target=race, args=(me,)) for me in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert (len(won), len(lost)) == (1, THREADS - 1)
            assert bytes(objects.get(f"versions/v{round_number}")[0]) == b"%d" % won[0] * 1000
        assert len(_paths(objects)) == 5, "losers leave nothing behind"

    def test_overwrite_replaces_and_the_tag_tells(self, objects: Objects) -> None:
        tags = {objects.overwrite("x", b"%0*d" % (size, 0)) for size in range(1, 6)}
        assert len(tags) == 5
        assert bytes(objects.get("x")[0]) == b"00000"
        objects.overwrite("x", b"11111")
        assert objects.head("x").e_tag not in tags, "same size, other bytes"
        assert objects.head("x").e_tag == objects.get("x")[1]

    @pytest.mark.parametrize(
        ("start", "length"), [(0, 10), (0, 3), (4, 2), (9, 1), (5, 100), (10, 1), (25, 5)]
    )
    def test_a_range_is_that_part_of_the_bytes(
        self, objects: Objects, start: int, length: int
    ) -> None:
        objects.create("x", b"0123456789")
        assert bytes(objects.get_range("x", start, length)) == b"0123456789"[start : start + length]

    def test_several_ranges_come_in_the_order_asked(self, objects: Objects) -> None:
        data = bytes(range(256)) * 100
        objects.create("folder ü/x", data)
        ranges = [(20_000, 10), (0, 4), (5, 1), (25_000, 600), (4, 1)]
        found = objects.get_ranges("folder ü/x", ranges)
        assert [bytes(one) for one in found] == [data[at : at + size] for at, size in ranges]
        with pytest.raises(ObjectNotFound):
            objects.get_ranges("missing", ranges)

    @pytest.mark.parametrize("path", ["missing", "a/missing", "folder", "", "../x", "a//b"])
    def test_what_is_not_there_is_not_found(self, objects: Objects, path: str) -> None:
        objects.create("folder/x", b"1")
        for read in (
            lambda: objects.get(path),
            lambda: objects.get_range(path, 0, 1),
            lambda: objects.head(path),
        ):
            with pytest.raises(ObjectNotFound):
                read()

    def test_list_is_all_below_a_folder_and_nothing_beside_it(self, objects: Objects) -> None:
        every = ["a", "ab", "ab/c", "abc/d", "abc/e/f", "x y/ü", "x y.z/u"]
        if not isinstance(objects, MemoryObjects) and objects.uri.startswith("file:"):
            every.remove("ab")  # a folder and an object cannot share a name here
        for path in every:
            objects.create(path, path.encode())
        assert _paths(objects) == sorted(every)
        assert _paths(objects, "ab") == _paths(objects, "ab/") == ["ab/c"]
        assert _paths(objects, "abc") == ["abc/d", "abc/e/f"]
        assert _paths(objects, "abc/e") == ["abc/e/f"]
        assert _paths(objects, "x y") == ["x y/ü"]
        assert _paths(objects, "nothing") == _paths(objects, "a") == []
        assert {info.path: info.size for info in objects.list()} == {
            path: len(path.encode()) for path in every
        }

    def test_children_are_one_level_with_names_of_folders(self, objects: Objects) -> None:
        for path in ("v1", "deep/v2", "deep/er/v3", "deep/er/est/v4", "deeper/v5", "ü ö/v6"):
            objects.create(path, b"1")

        def children(prefix: str) -> tuple[list[str], list[str]]:
            folders, found = objects.children(prefix)
            return sorted(folders), sorted(info.path for info in found)

        assert children("") == (["deep", "deeper", "ü ö"], ["v1"])
        assert children("deep") == children("deep/") == (["er"], ["deep/v2"])
        assert children("deep/er") == (["est"], ["deep/er/v3"])
        assert children("ü ö") == ([], ["ü ö/v6"])
        assert children("nothing") == children("v1") == ([], [])
        assert objects.children("deep")[1][0].e_tag == objects.head("deep/v2").e_tag

    def test_what_is_deleted_is_gone_and_what_is_missing_is_fine(self, objects: Objects) -> None:
        for path in ("a", "b/c", "b/d", "e"):
            objects.create(path, b"1")
        objects.delete(["missing", "a", "b/missing", "no/such/folder", "b/c"])
        assert _paths(objects) == ["b/d", "e"]
        objects.delete(path for path in ("a", "b/d"))
        objects.delete([])
        assert _paths(objects) == ["e"]
        objects.create("a", b"again")
        assert bytes(objects.get("a")[0]) == b"again"

    def test_a_folder_within_sees_the_same_objects(self, objects: Objects) -> None:
        inner = objects.within("out er/in").within("most")
        assert inner.uri == f"{objects.uri}/out er/in/most"
        inner.create("x/y", b"1")
        assert bytes(objects.get("out er/in/most/x/y")[0]) == b"1"
        assert _paths(objects) == ["out er/in/most/x/y"]
        assert _paths(inner) == ["x/y"]
        assert inner.children()[0] == ["x"]
        objects.create("out er/in/mostly", b"beside")
        assert _paths(inner) == ["x/y"]
        with pytest.raises(ObjectNotFound):
            inner.get("../mostly")
        inner.delete(["x/y"])
        assert _paths(objects) == ["out er/in/mostly"]

    def test_readers_never_see_half_an_overwrite(self, objects: Objects) -> None:
        size = 100_000
        objects.overwrite("x", b"0" * size)
        done = threading.Event()
        failures: list[object] = []

        def read() -> None:
            while not done.is_set():
                found = bytes(objects.get("x")[0])
                if len(found) != size or len(set(found)) != 1:
                    failures.append((len(found), set(found)))

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(1, 50):
            objects.overwrite("x", b"%d" % (number % 10) * size)
        done.set()
        reader.join()
        assert not failures


# -- errors ------------------------------------------------------------------------------------


OPERATIONS: dict[str, tuple[str, Callable[[Objects], object]]] = {
    "get": ("get", lambda objects: objects.get("x")),
    "get_range": ("get_range", lambda objects: objects.get_range("x", 0, 1)),
    "get_ranges": ("get_ranges", lambda objects: objects.get_ranges("x", [(0, 1)])),
    "head": ("head", lambda objects: objects.head("x")),
    "create": ("put", lambda objects: objects.create("x", b"")),
    "overwrite": ("put", lambda objects: objects.overwrite("x", b"")),
    "list": ("list", lambda objects: list(objects.list())),
    "children": ("list_with_delimiter", lambda objects: objects.children()),
    "delete": ("delete", lambda objects: objects.delete(["x"])),
}


@pytest.fixture(params=["local", "bucket"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "local":
        return _local(tmp_path)
    return ObstoreObjects(MemoryStore(), "s3://bucket")


def _failing(monkeypatch: pytest.MonkeyPatch, operation: str, error: BaseException) -> None:
    def fail(*args: object, **kwargs: object) -> object:
        raise error

    monkeypatch.setattr(obstore, OPERATIONS[operation][0], fail)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", [*OBSTORE_ERRORS, OSError, PermissionError, TimeoutError])
def test_no_error_of_the_store_leaks(
    real: Objects, operation: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing(monkeypatch, operation, kind("boom\n\nDebug source: much more"))
    missing = kind.__name__ in ("NotFoundError", "InvalidPathError")
    if operation == "delete" and missing:
        real.delete(["x"])  # what is not there is as good as deleted
        return
    with pytest.raises(StoreError) as raised:
        OPERATIONS[operation][1](real)
    assert "much more" not in str(raised.value)


def test_a_store_that_stops_at_what_is_missing_deletes_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Azure's and GCS's do where several are deleted at once."""
    objects = ObstoreObjects(MemoryStore(), "az://container")
    for path in ("a", "b"):
        objects.create(path, b"1")
    delete = obstore.delete

    def stopping(store: Any, paths: Any) -> None:
        if not isinstance(paths, str):
            raise obstore.exceptions.NotFoundError("missing: 404")
        if paths == "missing":
            raise obstore.exceptions.NotFoundError("404")
        delete(store, paths)

    monkeypatch.setattr(obstore, "delete", stopping)
    objects.delete(["a", "missing", "b"])
    assert _paths(objects) == []


def test_obstore_has_the_errors_that_were_thought_of() -> None:
    assert {one.__name__ for one in OBSTORE_ERRORS} == {
        "AlreadyExistsError",
        "BaseError",
        "GenericError",
        "InvalidPathError",
        "JoinError",
        "NotFoundError",
        "NotModifiedError",
        "NotSupportedError",
        "PermissionDeniedError",
        "PreconditionError",
        "UnauthenticatedError",
        "UnknownConfigurationKeyError",
    }


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError("x"), ObjectNotFound),
        (obstore.exceptions.NotFoundError("x"), ObjectNotFound),
        (obstore.exceptions.AlreadyExistsError("x"), ObjectExists),
        (obstore.exceptions.PreconditionError("412"), ObjectExists),
        (obstore.exceptions.PermissionDeniedError("403"), StoreDenied),
        (obstore.exceptions.UnauthenticatedError("401"), StoreDenied),
        (obstore.exceptions.GenericError("Read-only file system (os error 30)"), StoreDenied),
        (obstore.exceptions.GenericError("Permission denied (os error 13)"), StoreDenied),
        (obstore.exceptions.GenericError("400\n<Code>SignatureDoesNotMatch</Code>"), StoreDenied),
        (obstore.exceptions.GenericError("No space left on device (os error 28)"), StoreFull),
        (obstore.exceptions.GenericError("Disk quota exceeded (os error 122)"), StoreFull),
        (obstore.exceptions.GenericError("503 Slow Down"), StoreUnavailable),
        (obstore.exceptions.GenericError("409 ConditionalRequestConflict"), StoreUnavailable),
        (obstore.exceptions.GenericError("HTTP error: operation timed out"), StoreUnavailable),
        (obstore.exceptions.GenericError("<Code>RequestTimeTooSkewed</Code>"), StoreDenied),
        (obstore.exceptions.GenericError("<Code>ExpiredToken</Code>"), StoreDenied),
        (obstore.exceptions.NotFoundError("404 <Code>ContainerNotFound</Code>"), StoreDenied),
        (obstore.exceptions.GenericError("501 Not Implemented"), StoreDenied),
        (OSError("connection reset"), StoreUnavailable),
    ],
)
def test_an_error_says_what_the_caller_must_do(
    real: Objects,
    error: Exception,
    expected: type[BatchWeaveError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _failing(monkeypatch, "create", error)
    with pytest.raises(BatchWeaveError) as raised:
        real.create("some/path", b"1")
    assert type(raised.value) is expected
    assert "some/path" in str(raised.value)


def test_an_error_of_ours_is_not_hidden(real: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (KeyboardInterrupt(), ZeroDivisionError()):
        _failing(monkeypatch, "get", error)
        with pytest.raises(type(error)):
            real.get("x")


def test_a_path_below_a_file_is_denied(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    objects = open_objects(str(tmp_path / "file" / "warehouse"))
    for name in ("create", "overwrite", "get", "head"):
        with pytest.raises(StoreDenied, match="Not a directory"):
            OPERATIONS[name][1](objects)
    assert (tmp_path / "file").read_bytes() == b"1"


def test_reading_a_mistyped_folder_makes_nothing(tmp_path: Path) -> None:
    objects = open_objects(str(tmp_path / "mistyped"))
    assert list(objects.list()) == []
    assert objects.children() == ([], [])
    with pytest.raises(ObjectNotFound):
        objects.get("x")
    assert list(tmp_path.iterdir()) == []


# -- opening -----------------------------------------------------------------------------------


def test_credentials_are_in_no_repr_and_in_no_error() -> None:
    secrets = ["AKIAFAKEFAKE", "wJalrFAKESECRET", "FAKETOKEN"]
    objects = open_objects(
        "s3://bucket/prefix",
        {
            "s3.endpoint": "http://127.0.0.1:9",
            "s3.region": "eu-central-1",
            "s3.access-key-id": secrets[0],
            "s3.secret-access-key": secrets[1],
            "s3.session-token": secrets[2],
        },
    )
    assert repr(objects) == "Objects('s3://bucket/prefix')"
    assert objects.uri == "s3://bucket/prefix"
    with pytest.raises(StoreUnavailable, match="x") as raised:
        objects.create("x", b"1")
    shown = "".join(traceback.format_exception(raised.value)) + repr(vars(raised.value))
    for error in (raised.value, raised.value.__context__, raised.value.__cause__):
        shown += f"{error} {error!r}"
    for secret in secrets:
        assert secret not in shown
        assert secret not in repr(objects.within("a"))


@pytest.mark.parametrize("uri", ["ftp://host/x", "nonsense://x", "s3://"])
def test_a_store_that_cannot_be_opened_is_refused_by_name(uri: str) -> None:
    with pytest.raises(InvalidSettings, match=uri):
        open_objects(uri)


def test_the_uri_of_a_folder_opens_it_again(tmp_path: Path) -> None:
    objects = _local(tmp_path)
    objects.create("x", b"1")
    again = open_objects(objects.uri)
    assert _paths(again) == ["x"]
    assert again.uri == objects.uri


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = open_objects("./ware house")
    objects.create("x", b"1")
    assert objects.uri == f"file://{tmp_path}/ware house"
    assert (tmp_path / "ware house" / "x").read_bytes() == b"1"


def test_two_memory_warehouses_are_apart() -> None:
    one, two = open_objects("memory://"), open_objects("memory://")
    one.create("x", b"1")
    assert list(two.list()) == []


def test_paths_are_joined_without_empty_parts() -> None:
    assert join("", "a/", "/b", "", "c/d") == "a/b/c/d"
    assert join() == join("") == ""


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a b/c", ("file", "/a b/c")),
        ("file:/a/b", ("file", "/a/b")),
        ("file:///a b/ü", ("file", "/a b/ü")),
        ("s3://bucket/a/b/", ("s3", "bucket/a/b")),
        ("memory://x", ("memory", "x")),
    ],
)
def test_a_uri_is_a_scheme_and_the_rest(uri: str, expected: tuple[str, str]) -> None:
    assert split_uri(uri) == expected
