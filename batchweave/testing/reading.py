"""Conformance of reading: exact values, following, long histories, and other engines beside us.

Imports: standard library, pyarrow, the core, suite, fingerprints, writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

import batchweave as bw
from batchweave.testing.checks import check_stream
from batchweave.testing.fingerprints import fingerprint, fingerprint_of_rows
from batchweave.testing.samples import SMALL_SCHEMA, batch_number, sample_batch, sample_slice
from batchweave.testing.suite import Conformance
from batchweave.testing.writing import QUICK, Writer, commit_each, in_threads, numbers_of

IDLE_POLLS = 20
FOLLOWED = 8
BATCHES = 4
MORE = 4
AFTER_FOREIGN = 36
"""Commits after another engine's: enough that metadata is merged and cleaned on the way."""

IN_PARTS = bw.ProducerSettings(freshness_s=0.01, slices_per_file=2, commit_timeout_s=240)
ATTENTIVE = bw.ReaderSettings(poll_interval_s=0.02)


class ReadingConformance(Conformance):
    """What `batchweave.table.Table.head` and ``entries`` promise, and what readers make of it."""

    def test_values_come_back_exactly_in_every_slice(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        made = self._fill(catalog, name, self.schema)
        for stream in (made, open_again().load_stream(name)):
            for index in range(stream.mesh.slices):
                batches = list(stream.read(slice=index))
                assert [batch.step for batch in batches] == list(range(BATCHES))
                for number, batch in enumerate(batches):
                    assert batch.table.schema == self.schema
                    assert _values(batch.table) == _values(sample_slice(number, index, self.schema))
                    assert batch.producer == f"p{number % 2}"
                    assert batch.sequence == number // 2
                    assert batch.sources == (f"source {number}",)
            assert check_stream(stream).steps == BATCHES

    def test_any_range_and_share_of_steps_is_read_in_order(
        self, catalog: bw.Catalog, name: str
    ) -> None:
        stream = self._fill(catalog, name, SMALL_SCHEMA)
        for start in range(BATCHES + 1):
            for stop in range(start, BATCHES + 1):
                with stream.read(slice=1, start=start, stop=stop) as reader:
                    assert [batch_number(one.table) for one in reader] == list(range(start, stop))
                assert [one.step for one in stream.batches(start, stop)] == list(range(start, stop))
        halves = [list(stream.read(stream.mesh.share(rank, 2), start=2)) for rank in range(2)]
        assert [batch.slices for batch in halves[1]] == [(2, 3)] * (BATCHES - 2)
        for number, (one, two) in enumerate(zip(*halves, strict=True), start=2):
            whole = pa.concat_tables([one.table, two.table])
            assert whole["number"].to_pylist() == [
                value
                for table in sample_batch(number, stream.mesh.slices, stream.schema)
                for value in table["number"].to_pylist()
            ]

    def test_a_reader_follows_a_live_producer_to_the_seal(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        followed = open_again().load_stream(name)

        def publish() -> None:
            with stream.producer("p", QUICK) as producer:
                for number in range(FOLLOWED):
                    batch = sample_batch(number, stream.mesh.slices, stream.schema)
                    producer.publish(batch, position=number).step()
            stream.seal()

        def follow(index: int) -> list[tuple[int, int]]:
            with followed.read(slice=index, follow=True, settings=ATTENTIVE) as reader:
                return [(batch.step, batch_number(batch.table)) for batch in reader]

        _, first, second = in_threads(publish, lambda: follow(0), lambda: follow(1))
        assert first == second == [(number, number) for number in range(FOLLOWED)]

    def test_an_idle_stream_looks_the_same_until_it_is_not(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        writer = Writer(stream, "p")
        watcher = open_again().load_stream(name).table
        head = watcher.head()
        for number in range(3):
            for _ in range(IDLE_POLLS):
                again = watcher.head(head)
                assert (again.version, again.state) == (head.version, head.state)
                head = again
            writer.commit(number)
            moved = watcher.head(head)
            assert moved.version > head.version, "a commit was not seen by who polled before it"
            assert moved.state.next_step == number + 1
            assert [one.step for one in watcher.entries(moved, number, number + 1)] == [number]
            head = moved

    def test_an_old_head_shows_what_it_showed(self, catalog: bw.Catalog, name: str) -> None:
        stream = self.create(catalog, name)
        commit_each(stream, "p", range(3))
        old = stream.table.head()
        shown = list(stream.table.entries(old, 0, old.state.next_step))
        commit_each(stream, "p", range(3, 6))
        assert [one.step for one in shown] == [0, 1, 2]
        assert list(stream.table.entries(old, 0, 3)) == shown
        new = stream.table.head()
        assert list(stream.table.entries(new, 0, 3)) == shown, "a step changed after its commit"
        assert [one.step for one in stream.table.entries(new, 0, 6)] == list(range(6))

    def test_state_and_openings_hold_after_many_commits(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        commits = self.commits_of_a_long_history()
        stream = self.create(catalog, name, mesh=bw.Mesh(dp=1))
        early = Writer(stream, "early")
        early.commit(0)
        reader = stream.read(slice=0, follow=True, settings=ATTENTIVE)
        with reader:  # it lags behind: what it has read of the metadata gets old
            assert next(reader).step == 0
            late = Writer(stream, "late")
            for number in range(1, commits):
                late.commit(number)
            found = open_again().load_stream(name)
            state = found.head()
            assert state == stream.head()
            assert state.next_step == commits
            last = {name: one.sequence for name, one in state.producers.items()}
            assert last == {"early": 0, "late": commits - 2}, "a producer was forgotten"
            assert [one.step for one in found.batches()] == list(range(commits))
            middle = commits // 2
            with found.read(slice=0, start=middle, stop=middle + 3) as few:
                assert [batch_number(one.table) for one in few] == [*range(middle, middle + 3)]
            with found.producer("early", QUICK) as producer:  # nothing of it in recent commits
                assert (producer.generation, producer.position) == (2, 0)
                batch = sample_batch(commits, 1, stream.schema)
                assert producer.publish(batch, position=commits).step() == commits
            found.seal()
            assert [one.step for one in reader] == list(range(1, commits + 1))
        assert check_stream(found).steps == commits + 1

    def test_streams_carry_on_after_foreign_commits(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        writer = Writer(stream, "p")
        for number in range(3):
            writer.commit(number)
        before = fingerprint(stream)
        writer.stage(3)
        wake = writer.sleep_before_commit()
        other = open_again()
        self.foreign_commit(other, other.load_stream(name))
        self.check_foreign_commit(catalog, open_again().load_stream(name))
        assert fingerprint(stream) == before
        wake()  # on a head that is not the newest any more: whatever comes of it is resolved
        for number in range(4, 3 + AFTER_FOREIGN):
            writer.commit(number)
        found = open_again().load_stream(name)
        assert found.schema == stream.schema
        assert numbers_of(found) == list(range(3 + AFTER_FOREIGN))
        assert check_stream(found).steps == 3 + AFTER_FOREIGN
        self.check_foreign_commit(catalog, found)

    def test_other_engines_read_the_same_rows(
        self, catalog: bw.Catalog, name: str, properties: Mapping[str, str]
    ) -> None:
        stream = self._fill(catalog, name, self.schema)
        commit_each(stream, "p1", range(BATCHES, BATCHES + MORE))
        ours = fingerprint(stream)
        assert ours.steps == tuple(range(BATCHES + MORE))
        assert ours.slices == tuple(range(stream.mesh.slices))
        engines = []
        for engine, rows in self.foreign_reads(stream, properties):
            assert fingerprint_of_rows(rows, stream) == ours, f"{engine} reads other rows"
            engines.append(engine)
        assert engines, "no engine read the table"

    def _fill(self, catalog: bw.Catalog, name: str, schema: pa.Schema) -> bw.Stream:
        """A stream of two producers, of which one writes several parts a batch."""
        mesh = bw.Mesh(dp=2, cp=2)
        stream = self.create(catalog, name, mesh=mesh, schema=schema)
        with stream.producer("p0", IN_PARTS) as zero, stream.producer("p1", QUICK) as one:
            for number in range(BATCHES):
                batch = sample_batch(number, mesh.slices, schema)
                producer = one if number % 2 else zero
                producer.publish(batch, position=number, source=f"source {number}").step()
        return stream


def _values(table: pa.Table) -> list[dict[str, object]]:
    return list(table.to_pylist())
