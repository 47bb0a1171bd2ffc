"""Real servers for tests and benchmarks: on loopback, on free ports, gone when their owner is."""
