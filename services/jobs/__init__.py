"""The jobs service: drives the loop (rollouts, rewards, steps, evaluation, checkpoints) from a config, durably."""
