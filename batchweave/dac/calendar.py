"""The calendar: who holds which slot, as the table's state tells it, and which slots are free.

Pure; chance comes from the generator that is handed in. Imports: standard library, protocol.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchweave.dac.protocol import MICROSECONDS, Randomness, View

TURN_AHEAD_US_MAX = 3600 * MICROSECONDS
"""Turns further ahead are neither booked nor believed."""

# One slot in six stays open: strays and newcomers get in within a few slots also among four
# producers, and it costs a fifth of a round.  With one in eight, losers wait too long there.
_OPEN_EVERY = 6
# How far a loser spreads.
_PICK_SLOTS_MAX = 4096
# Places: those whose turn passed within eight rounds have one.  They are of use where a producer
# commits every 2 to 20 rounds.  Before, turns alone do; beyond, and among a few, rivals are rare.
_PLACE_ROUNDS = 8
_PLACES_MIN = 8
_SPARSE_ROUNDS_MIN = 2
_SPARSE_ROUNDS_MAX = 20
# A producer whose turn passed counts as live for 1.2 rounds more: most losers are back sooner,
# and those that left should not hold up the others.
_LIVE_PERCENT = 120
_LIVE_SLOTS_MIN = 16
# A round also leaves room for those that are still to come: twice as many as came in the last one.
_JOINERS_EXPECTED = 2


def slot_at_or_after(time_us: int, slot_us: int) -> int:
    """The index of the first slot that does not begin before a table time."""
    return -(-time_us // slot_us)


@dataclass(frozen=True, slots=True)
class Calendar:
    """The slots that others hold, and how many others want one."""

    slot_us: int
    taken: dict[int, int]
    """Slot index -> the version at which its holder last committed."""
    waiting: int
    """Others that let their turn pass in about the last round."""
    joined: int
    """Others that opened within about the last round."""
    place: int
    """The own rank by name among the `places`."""
    places: int
    """This producer and all others with a turn that is ahead or passed not too long ago."""
    late: bool
    """The holder of the slot before this one has not been seen to commit in it."""

    @property
    def live(self) -> int:
        """This producer and all others that hold a slot or want one."""
        return len(self.taken) + self.waiting + 1

    @property
    def round_us(self) -> int:
        """Until all that are live, or are likely to come, had a slot; open slots included."""
        slots = self.live + _JOINERS_EXPECTED * self.joined
        return slots * _OPEN_EVERY // (_OPEN_EVERY - 1) * self.slot_us

    @property
    def places_us(self) -> int:
        """How long it takes to go through all places once."""
        return self.places * self.slot_us

    @property
    def crowded(self) -> bool:
        """Whether waiting for one's place is worth it."""
        return self.places >= _PLACES_MIN

    def sparse(self, need_us: int) -> bool:
        """Whether who commits once in `need_us` should keep to its place."""
        places_us = self.places_us
        return (
            self.crowded
            and _SPARSE_ROUNDS_MIN * places_us <= need_us <= _SPARSE_ROUNDS_MAX * places_us
        )

    def place_us(self, from_us: int) -> int | None:
        """When the own place comes next; `None` if somebody holds that slot."""
        first = slot_at_or_after(from_us, self.slot_us)
        index = first + (self.place - first) % self.places
        return None if index in self.taken else index * self.slot_us

    def pick_us(self, from_us: int, losses: int, rng: Randomness) -> int:
        """A random one of the next free slots; more of them the more attempts were lost."""
        likely = 1 + 2 * (self.waiting + self.joined) + self.live // 4
        among = min((1 + self.waiting) << max(0, losses - 1), likely, _PICK_SLOTS_MAX)
        first = slot_at_or_after(from_us, self.slot_us)
        unbooked_to = first + self.live
        reach = (self.live + _JOINERS_EXPECTED * self.joined) * 3 // 2
        reach = min(max(_OPEN_EVERY, reach), 2 * _PICK_SLOTS_MAX)
        choices: list[int] = []
        for index in range(first, first + reach):
            if index in self.taken or (index >= unbooked_to and index % _OPEN_EVERY):
                continue
            choices.append(index)
            if len(choices) == among:
                break
        if not choices:
            return (first + reach) * self.slot_us
        return choices[rng.randrange(0, len(choices))] * self.slot_us

    def bookable_us(self, from_us: int) -> int:
        """The first slot that can be booked: free, and not one of those that stay open."""
        index = slot_at_or_after(from_us, self.slot_us)
        for _ in range(2 * len(self.taken) + 2):
            if index % _OPEN_EVERY and index not in self.taken:
                break
            index += 1
        return index * self.slot_us


def read_calendar(view: View, name: str, now_us: int, slot_us: int) -> Calendar:
    """The calendar as producer `name` sees it at table time `now_us`."""
    taken: dict[int, int] = {}
    lapsed_us: list[int] = []
    joined = 0
    late = False
    place = 0
    places = 1
    opened_since = view.version - len(view.producers)
    current_us = now_us - now_us % slot_us - slot_us
    before_us = current_us - slot_us
    oldest_us = now_us - _PLACE_ROUNDS * (len(view.producers) + _LIVE_SLOTS_MIN) * slot_us
    believed_us = now_us + TURN_AHEAD_US_MAX
    for peer_name, peer in view.producers.items():
        if peer_name == name:
            continue
        turn_us = peer.turn_us
        if peer.opened_version >= opened_since:
            joined += 1
        if oldest_us < turn_us <= believed_us:
            places += 1
            place += peer_name < name
        if turn_us > current_us:
            if turn_us <= believed_us:
                index = slot_at_or_after(turn_us, slot_us)
                taken[index] = min(peer.version, taken.get(index, peer.version))
        elif turn_us > oldest_us:
            lapsed_us.append(turn_us)
            if turn_us > before_us:
                late = True
    waiting = _count_waiting(lapsed_us, now_us, slot_us, len(taken))
    return Calendar(slot_us, taken, waiting, joined, place, places, late)


def _count_waiting(lapsed_us: list[int], now_us: int, slot_us: int, taken: int) -> int:
    """Those whose turn passed within a round of as many producers as are counted so far."""
    waiting = 0
    for turn_us in sorted(lapsed_us, reverse=True):
        slots = max(_LIVE_SLOTS_MIN, _LIVE_PERCENT * (taken + waiting + 1) // 100)
        if now_us - turn_us > slots * slot_us:
            break
        waiting += 1
    return waiting
