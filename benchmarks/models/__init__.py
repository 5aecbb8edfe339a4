"""What `benchmarks.model` compares: seeded models of several sizes, the work, and the two sides that do it."""
