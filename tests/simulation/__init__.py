"""A deterministic simulation of the commit protocol: real code, simulated store, clocks and faults.

`simulate(seed, kind)` runs one history: producers, readers and others as actors on one seeded
scheduler, every store operation a place where the scheduler may switch, fail, delay or crash.
Afterwards `invariants` compares what was acknowledged with what the table holds.

Modules: world (scheduler, clocks, history), faults (what may go wrong, in profiles), store (the
simulated `Objects`), register (a small fast table), tables (both kinds of table, opened for an
actor and read back independently), record (what was acknowledged and seen), content (what producers
publish), actors, invariants, run (one history), planted (protocol bugs that must be caught).
"""
