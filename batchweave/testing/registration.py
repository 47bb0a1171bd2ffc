"""Conformance of a catalog: streams by name, each name once, found by everybody, gone when dropped.

Imports: standard library, pytest, the core, suite, writing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import batchweave as bw
from batchweave.paths import POSITIONS
from batchweave.state import CHAIN_START
from batchweave.testing.checks import check_stream
from batchweave.testing.samples import sample_batch
from batchweave.testing.suite import Conformance
from batchweave.testing.writing import QUICK, Writer, commit_each, in_threads, numbers_of

CREATORS = 4
BAD_NAMES = ("stream", "", ".", "a.", ".b", "a..b", "a.b/c", "a.../b", "a.b c", "a.é", "-a.b")


class RegistrationConformance(Conformance):
    """What `batchweave.catalog.TableCatalog` promises."""

    def test_a_new_stream_is_empty_and_as_it_was_declared(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        mesh = bw.Mesh(dp=2, cp=3)
        made = self.create(catalog, name, mesh=mesh, schema=self.schema)
        for stream in (made, open_again().load_stream(name)):
            state = stream.head()
            assert (stream.name, stream.mesh, stream.schema) == (name, mesh, self.schema)
            assert (state.next_step, state.sealed, state.watermark) == (0, False, 0)
            assert (dict(state.producers), dict(state.checkpoints)) == ({}, {})
            assert state.chain == CHAIN_START
            assert list(stream.batches()) == []
            assert list(stream.read(slice=5)) == []
            check_stream(stream)

    def test_a_stream_is_found_by_its_name_from_elsewhere(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        commit_each(self.create(catalog, name), "p", range(3))
        found = open_again().load_stream(name)
        assert numbers_of(found) == [0, 1, 2]
        commit_each(found, "q", range(3, 5))
        assert numbers_of(catalog.load_stream(name), 1) == [0, 1, 2, 3, 4]
        assert check_stream(found).producers == ("p", "q")

    def test_a_taken_name_is_refused_and_what_has_it_is_untouched(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        commit_each(stream, "p", range(2))
        for other in (catalog, open_again()):
            with pytest.raises(bw.StreamExists):
                self.create(other, name, mesh=bw.Mesh(dp=7))
        again = open_again().load_stream(name)
        assert again.mesh == stream.mesh
        assert numbers_of(again) == [0, 1]

    def test_one_of_many_concurrent_creators_wins(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        winners = self.create_at_once(name, open_again)
        assert len(winners) == 1, f"{len(winners)} of {CREATORS} creators of {name} were told yes"
        found = open_again().load_stream(name)
        assert found.mesh == winners[0].mesh, "the stream is not the one that its creator was given"
        commit_each(winners[0], "p", range(2))
        assert numbers_of(found) == [0, 1]

    def create_at_once(self, name: str, open_again: Callable[[], bw.Catalog]) -> list[bw.Stream]:
        """Let several create one name, each with a mesh of its own: what those got who were told
        yes.
        """

        def create(other: bw.Catalog, size: int) -> bw.Stream | None:
            try:
                return self.create(other, name, mesh=bw.Mesh(dp=size))
            except bw.StreamExists:
                return None

        catalogs = [open_again() for _ in range(CREATORS)]
        results = in_threads(
            *(
                lambda other=other, size=size: create(other, size)
                for size, other in enumerate(catalogs, start=1)
            )
        )
        return [stream for stream in results if stream is not None]

    def test_unusable_names_are_refused(self, catalog: bw.Catalog) -> None:
        for bad in BAD_NAMES:
            with pytest.raises(bw.InvalidName):
                self.create(catalog, bad)
            with pytest.raises(bw.InvalidName):
                catalog.load_stream(bad)
            with pytest.raises(bw.InvalidName):
                catalog.drop_stream(bad)

    def test_a_missing_stream_is_not_found_and_not_made(
        self, catalog: bw.Catalog, name: str
    ) -> None:
        sibling = name.replace(".stream", ".sibling")
        for namespace_exists in (False, True):
            if namespace_exists:
                self.create(catalog, sibling)
            for _ in ("at first", "and after the first look"):
                with pytest.raises(bw.StreamNotFound):
                    catalog.load_stream(name)
                with pytest.raises(bw.StreamNotFound):
                    catalog.drop_stream(name)
        assert self._own(catalog, name) == [sibling]

    def test_streams_are_listed_and_other_tables_are_not(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        second, foreign = (name.replace(".stream", f".{one}") for one in ("another", "foreign"))
        self.create(catalog, name)
        self.create(open_again(), second)
        self.make_foreign_table(catalog, foreign)
        for one in (catalog, open_again()):
            assert self._own(one, name) == [second, name]
            with pytest.raises(bw.NotAStream):
                one.load_stream(foreign)
            with pytest.raises(bw.NotAStream):
                one.drop_stream(foreign)
            with pytest.raises(bw.StreamExists):
                self.create(one, foreign)

    def test_a_dropped_stream_leaves_no_object_and_its_name_is_free(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        with stream.producer("p", QUICK) as producer:
            position = "x" * (QUICK.position_bytes_inline_max + 1)  # goes to an object of its own
            producer.publish(self._batch(stream, 0), position=position)
        Writer(stream, "crashed").stage(1)  # uploaded, and committed by nobody
        objects = stream.table.objects
        assert any(info.path.startswith(POSITIONS) for info in objects.list())
        open_again().drop_stream(name)
        assert [info.path for info in objects.list()] == []
        assert self._own(catalog, name) == []
        with pytest.raises(bw.StreamNotFound):
            open_again().load_stream(name)
        again = self.create(catalog, name, mesh=bw.Mesh(dp=3))
        commit_each(again, "p", range(2))
        assert numbers_of(open_again().load_stream(name), 2) == [0, 1]
        check_stream(again)

    def test_a_live_writer_does_not_bring_a_dropped_stream_back(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        with stream.producer("p", QUICK) as producer:
            producer.publish(self._batch(stream, 0)).step()
            open_again().drop_stream(name)
            late = producer.publish(self._batch(stream, 1))
            with pytest.raises(bw.StreamNotFound):
                late.step()
        with pytest.raises(bw.StreamNotFound):
            open_again().load_stream(name)

    def test_a_writer_of_a_dropped_stream_does_not_write_to_its_namesake(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        with stream.producer("p", QUICK) as producer:
            producer.publish(self._batch(stream, 0)).step()
            other = open_again()
            other.drop_stream(name)
            namesake = self.create(other, name)
            commit_each(namesake, "p", [7])  # as many commits as the first one's: the same version
            late = producer.publish(self._batch(stream, 1))
            with pytest.raises(bw.StreamNotFound):
                late.step()
        assert numbers_of(namesake) == [7]
        check_stream(namesake)

    @staticmethod
    def _batch(stream: bw.Stream, number: int) -> list[object]:
        return [*sample_batch(number, stream.mesh.slices, stream.schema)]

    @staticmethod
    def _own(catalog: bw.Catalog, name: str) -> list[str]:
        """The streams of this test's namespace."""
        namespace = name.rpartition(".")[0]
        return [one for one in catalog.list_streams() if one.startswith(namespace + ".")]
