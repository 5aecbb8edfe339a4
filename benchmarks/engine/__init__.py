"""What the generation engine is worth: `python -m benchmarks.engine`."""
