"""A deterministic simulation of commits and retention: real code, simulated store, clocks, faults.

`simulate(seed, kind)` runs one history: producers, readers and others as actors on one seeded
scheduler, every store operation a place where the scheduler may switch, fail, delay or crash.
Afterwards `invariants` compares what was acknowledged with what the table holds.

Modules: world (scheduler, clocks, history), faults (what may go wrong, in profiles), store (the
simulated `Objects`), register (a small fast table), tables (both kinds of table, opened for an
actor and read back independently), record (what was acknowledged and seen), chronicle (what the
store witnessed of each version and deletion), content (what producers publish), actors (producers,
readers, sealers), upkeep (training runs, reclaimers, sweepers), evidence and the invariants of
commits and of retention, run (one history), planting and the planted bugs that must be caught.
"""
