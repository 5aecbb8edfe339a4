"""Commands for those who work on moontune; run as `python -m tools.<name>`. Not in the wheel."""
