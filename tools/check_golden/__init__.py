"""Parity with Moondream's public implementations: `python -m tools.check_golden DIR...`."""
