"""The demo: reinforcement on real handwriting and real photographs, end to end; run `python -m examples.demo`."""
