"""Conformance of commits: races, lost answers, fencing, seals; each batch once, in its order.

Imports: standard library, pytest, the core, suite, faults, writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

import batchweave as bw
from batchweave.table import Committed, Lost, Unknown
from batchweave.testing.checks import check_stream
from batchweave.testing.faults import Fault, Faults
from batchweave.testing.samples import batch_number, sample_batch
from batchweave.testing.suite import Conformance, ended
from batchweave.testing.writing import QUICK, Writer, commit_each, in_threads, numbers_of

RIVALS = 3
EACH = 6
ELSEWHERE = 5

every_fault = pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name.lower())


class PublishingConformance(Conformance):
    """What `batchweave.table.Table.commit` promises, and what producers make of it."""

    def test_the_loser_of_a_race_commits_nothing(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        other = open_again().load_stream(name)
        one, two = Writer(stream, "one"), Writer(other, "two")
        one.stage(0)
        two.stage(1)
        commit_one, commit_two = one.sleep_before_commit(), two.sleep_before_commit()
        assert isinstance(commit_one(), Committed)
        assert isinstance(commit_two(), (Lost, Unknown)), "a commit on an old head was not refused"
        assert numbers_of(stream) == numbers_of(other) == [0]
        assert isinstance(two.attempt(), Committed)
        assert numbers_of(stream) == numbers_of(other) == [0, 1]
        check_stream(stream)

    def test_rival_producers_lose_and_double_nothing(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        rivals = [open_again().load_stream(name) for _ in range(RIVALS)]
        numbers = [range(100 * at, 100 * at + EACH) for at in range(RIVALS)]
        in_threads(
            *(
                lambda at=at, rival=rival: commit_each(rival, f"p{at}", numbers[at])
                for at, rival in enumerate(rivals)
            )
        )
        self._check_batches(stream, {f"p{at}": each for at, each in enumerate(numbers)})

    def test_a_rival_in_another_process_loses_and_doubles_nothing(
        self, catalog: bw.Catalog, name: str, properties: Mapping[str, str]
    ) -> None:
        stream = self.create(catalog, name)
        process = self.start_elsewhere(properties, name, "there", range(100, 100 + ELSEWHERE))
        with ended(process):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            with stream.producer("here", QUICK) as producer:
                for number in range(ELSEWHERE):
                    self._publish(producer, stream, number).step()
        self._check_batches(
            stream, {"here": range(ELSEWHERE), "there": range(100, 100 + ELSEWHERE)}
        )

    @every_fault
    def test_an_unknown_outcome_is_resolved_and_not_guessed(
        self, catalog: bw.Catalog, name: str, fault: Fault
    ) -> None:
        self.create(catalog, name)
        faults = Faults()
        with self.failing(catalog, faults) as failing:
            stream = failing.load_stream(name)
            with stream.producer("p", QUICK) as producer:
                steps = []
                for number in range(6):
                    if number % 2:
                        faults.arm(fault, count=1 + number // 4)
                    steps.append(self._publish(producer, stream, number).step())
        assert faults.fired >= 3, "no commit met the fault: `failing` has no effect"
        assert steps == list(range(6)), "receipts tell other steps than those committed"
        self._check_batches(catalog.load_stream(name), {"p": range(6)})

    @every_fault
    def test_a_successor_finds_what_an_interrupted_producer_left(
        self, catalog: bw.Catalog, name: str, fault: Fault
    ) -> None:
        self.create(catalog, name)
        faults = Faults()
        with self.failing(catalog, faults) as failing:
            writer = Writer(failing.load_stream(name), "p")
            writer.commit(0)
            writer.stage(1)
            faults.arm(fault)
            outcome = writer.attempt()  # and nobody looks what became of it
        assert faults.fired == 1, "no commit met the fault: `failing` has no effect"
        stream = catalog.load_stream(name)
        landed = fault is not Fault.NOT_SENT or isinstance(outcome, Committed)
        assert numbers_of(stream) == list(range(1 + landed))
        with stream.producer("p", QUICK) as successor:
            assert successor.position == int(landed), "the position is not the last batch's"
            for number in range(successor.position + 1, 4):
                self._publish(successor, stream, number)
        self._check_batches(stream, {"p": range(4)})

    @every_fault
    def test_state_changes_survive_a_lost_answer(
        self, catalog: bw.Catalog, name: str, fault: Fault
    ) -> None:
        self.create(catalog, name)
        faults = Faults()
        with self.failing(catalog, faults) as failing:
            stream = failing.load_stream(name)
            faults.arm(fault)
            with stream.producer("p", QUICK) as producer:
                opened = producer.generation
                self._publish(producer, stream, 0)
            faults.arm(fault)
            stream.seal()
        assert faults.fired == 2, "no commit met the fault: `failing` has no effect"
        state = catalog.load_stream(name).head()
        assert state.sealed
        assert state.producers["p"].generation == opened
        self._check_batches(catalog.load_stream(name), {"p": range(1)})

    def test_a_newer_opener_of_a_name_fences_the_older(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        older = stream.producer("p", QUICK)
        try:
            self._publish(older, stream, 0).step()
            with open_again().load_stream(name).producer("p", QUICK) as newer:
                assert newer.generation > older.generation
                assert newer.position == 0
                late = self._publish(older, stream, 77)
                with pytest.raises(bw.Fenced):
                    late.step()
                self._publish(newer, stream, 1).step()
                with pytest.raises(bw.Fenced):
                    self._publish(older, stream, 78)
        finally:
            older.close(flush=False)
        self._check_batches(stream, {"p": range(2)})

    def test_a_zombie_that_wakes_commits_nothing(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        zombie = Writer(stream, "p")
        zombie.commit(0)
        zombie.stage(77)
        wake = zombie.sleep_before_commit()  # it has read the head, and sleeps
        successor = Writer(open_again().load_stream(name), "p")  # only opens: no batch yet
        outcome = wake()
        assert not isinstance(outcome, Committed), "a fenced producer committed"
        assert numbers_of(stream) == [0]
        successor.commit(1)
        for _ in range(2):
            with pytest.raises(bw.Fenced):
                zombie.attempt()
        self._check_batches(stream, {"p": range(2)})

    def test_the_position_is_that_of_the_last_committed_batch(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        large = {"state": "x" * (QUICK.position_bytes_inline_max + 1)}
        before: object = None
        for number, position in enumerate([{"file": 3, "at": [1, 2.5]}, large, b"\x00\xff"]):
            with open_again().load_stream(name).producer("p", QUICK) as producer:
                assert producer.position == before
                assert producer.generation == number + 1
                batch = sample_batch(number, stream.mesh.slices, stream.schema)
                assert producer.publish(batch, position=position).step() == number
                assert producer.position == before or producer.position == position
                producer.flush()
                assert producer.position == position
            before = position
        with stream.producer("p", QUICK) as producer:
            assert producer.position == before
        self._check_batches(stream, {"p": range(3)})

    def test_nothing_follows_a_seal(
        self, catalog: bw.Catalog, name: str, open_again: Callable[[], bw.Catalog]
    ) -> None:
        stream = self.create(catalog, name)
        sleeper = Writer(stream, "sleeper")
        sleeper.stage(77)
        wake = sleeper.sleep_before_commit()
        producer = stream.producer("p", QUICK)
        try:
            self._publish(producer, stream, 0).step()
            other = open_again().load_stream(name)
            other.seal()
            late = self._publish(producer, stream, 1)
            with pytest.raises(bw.StreamSealed):
                late.step()
        finally:
            producer.close(flush=False)
        assert not isinstance(wake(), Committed), "a batch was committed after the seal"
        with pytest.raises(bw.StreamSealed):
            other.producer("q", QUICK)
        version = stream.table.head().version
        stream.seal()  # sealing twice is sealing once
        assert stream.table.head().version == version
        assert stream.head().sealed
        self._check_batches(stream, {"p": range(1)})

    @staticmethod
    def _publish(producer: bw.Producer, stream: bw.Stream, number: int) -> bw.Receipt:
        slices = sample_batch(number, stream.mesh.slices, stream.schema)
        return producer.publish(slices, position=number)

    @staticmethod
    def _check_batches(stream: bw.Stream, published: Mapping[str, range]) -> None:
        """Each of the batches is there once, in its producer's order, and nothing else."""
        looked = check_stream(stream)
        assert looked.steps == sum(len(numbers) for numbers in published.values())
        found: dict[str, list[int]] = {producer: [] for producer in published}
        with stream.read(slice=1) as reader:
            for batch in reader:
                found[batch.producer].append(batch_number(batch.table))
        assert found == {producer: list(numbers) for producer, numbers in published.items()}
