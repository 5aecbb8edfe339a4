"""Rewards of one's own, in every way that there is: docs/user_rewards.md."""
