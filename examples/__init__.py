"""Programs that show moontune at work; each runs from the repository's root as `python -m examples.<name>`."""
