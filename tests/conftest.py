"""Hypothesis draws the same examples on each run; `pytest --hypothesis-profile=thorough` draws 500 new ones."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile("repeatable")
