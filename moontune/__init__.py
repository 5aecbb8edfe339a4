"""Reinforcement finetuning for vision-language models: clients, the command line, and what the services share.

Nothing heavy is imported here: `moontune.clients` needs no torch, and the services run from a checkout or an image.
"""
