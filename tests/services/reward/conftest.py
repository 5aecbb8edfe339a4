"""`pytest --hypothesis-profile=thorough tests/services/reward` tries 500 examples of every property."""

from hypothesis import settings

settings.register_profile("thorough", max_examples=500)
