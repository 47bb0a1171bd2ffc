"""DAC, Decentralized Adaptive Commit: when a producer tries a commit.

This package owns one decision and nothing else.  It has no clock, does no I/O, starts no threads
and draws randomness only from a generator that is handed in, so that the producer and the
simulation (`tests/bench/dac_simulation.py`) drive the same code.  It imports the standard library
only.  The idea of a commit controller without a coordinator is that of the BatchWeave paper
(arXiv 2605.09994); the protocol below is our own.

Its modules, each importing only those before it: `protocol`, what a controller and its caller say
to each other; `settings`; `pace`, how the shared window and slot follow what is measured;
`calendar`, who holds which slot and which are free; `table_clock`, the common clock; `approach`,
the next head read on the way to an attempt; `controller`, which decides.

The problem.  An attempt reads the head, writes, and ends in a compare-and-swap: the window L.
It loses if anyone commits within its window.  If N producers attempt at random, each once in an
interval T, an attempt loses with q = 1 - exp(-(N - 1) L / T), so low waste needs a T of many
times N L, and retries at once cost N attempts a commit.  But losing is not what limits the
table: the first of several rivals always commits, so up to 1 / L commits a second get through
(unlike ALOHA, which collapses), and one commit carries all that is pending.  What the controller
decides is therefore how fresh batches are and how many requests are wasted, not throughput.

The protocol is reservation ALOHA over the table itself.  Every commit announces, for its
producer, when that producer will try next: its turn.  Everyone reads the turns with the head that
an attempt reads anyway, and together they are a calendar.

* Table clock.  Turns need a common clock, and wall clocks may be skewed.  Each commit carries
  `clock_us`, its author's estimate of the table time at which it lands.  It is
  set 3/5 of a window after the head read began, which is before the landing also as seen by readers
  that date what they read by the beginning of their read.  A reader knows that it is now at least
  that late and moves its own offset forward to it, never back (as in Lamport's clocks), so that
  all keep to the one that is ahead; by more than a quarter of a window only if two reads in a row
  show it, because one may have stalled.  That bound is loose for a producer that
  always reads long after a commit, so some turns are preceded by a look: head reads, a quarter
  of a window apart, until one commit is seen to land.  A producer that lost twice in a row takes
  its time from such a landing also where this means to step back (unless its last attempt did not
  fit a slot, as then such stamps are early): it may be ahead of all others,
  and as long as it does not commit, they cannot follow.
* Waiting for the one before.  An attempt whose head read shows that the slot before its own is
  booked and its holder not yet seen reads again a little later, for up to 3/8 of a window, before
  it writes.  So slots need not fit the longest window, and clocks need not agree to the end.
* Slots.  Time is cut into slots of `slot_us`, 1.32 windows: room for a window and its jitter.
  A turn is the beginning of a slot.  `window_us` is a smoothed estimate of the window that every
  committer updates with what it measured itself.  `slot_us` follows it in rare steps, because
  each step moves the slots under turns that are already announced.
* Turns.  A producer that commits books the first free slot that is neither sooner than it has
  something to say (the time of its next batch, plus freshness, less a window) nor sooner than one
  round: (live producers + recent joiners) slots.  With all slots in use this is round robin, at
  T = 1.32 * 6/5 * N * window_us, about 1.65 N L.  A batch waits for at most one round: p99 is
  about T + L, and since turns do not overlap, nearly every attempt commits.
* Open slots.  Every sixth slot is never booked.  Newcomers, and producers that lost an attempt
  or let a turn pass, pick at random among the next m free slots: m is one more than the others
  that let a turn pass, and doubles with each loss after the first, up to about twice the number
  of these and of recent joiners (as many are likely to come still).  Where U of them spread over
  m slots, U / m attempts make one commit, and slots are still not wasted.
  All this ends within one and a half rounds.  The round leaves room
  for twice as many joiners as came in the last one, so membership grows by half with every round.
* Places.  Who commits once in 2 to 20 rounds (bursts) seldom says in time when it will be ready.
  Its first try without a turn, and the turns it books, take the slots of its place: its rank by
  name among the producers whose turn is ahead or passed within eight rounds, modulo their number.
  All read the same ranks, so that those who come at once go one after another, each within a
  round.  So do all whose turn passed more than a round ago.  Among fewer than eight it is not
  worth the wait.  Those that left only lengthen this round, until they are forgotten.
* Giving way.  An attempt begins with a head read.  If that shows the slot to belong to another,
  the attempt is put off before anything is written: a probe, which costs a head read.  After
  four probes in a row, one less for each loss, it goes ahead regardless: waiting is bounded.

Leaving needs no message: a turn that passes unused is free, and about a round later its producer
no longer counts.  Alone, no slots are kept: a commit lands when the oldest batch reaches the
freshness target.  When contention makes the target unreachable, contention wins.

What it needs in the table's state: three integers in all (`Pace`) and one for each producer
(`turn_us`), written with each commit as `begin` returned them.  They are hints: a wrong or
missing one costs attempts or freshness, and never safety, which rests on the compare-and-swap.
"""

from __future__ import annotations

from batchweave.dac.controller import Controller
from batchweave.dac.pace import next_pace
from batchweave.dac.protocol import (
    Claim,
    CommitPolicy,
    Outcome,
    Pace,
    Peer,
    Randomness,
    View,
)
from batchweave.dac.settings import DacSettings

__all__ = [
    "Claim",
    "CommitPolicy",
    "Controller",
    "DacSettings",
    "Outcome",
    "Pace",
    "Peer",
    "Randomness",
    "View",
    "next_pace",
]
