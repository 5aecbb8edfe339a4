"""What `benchmarks.trainer` measures."""
