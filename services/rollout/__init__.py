"""The rollout service: attempts at a prompt by a named policy, every decision recorded. Holds caches only."""
