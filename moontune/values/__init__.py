"""Frozen dataclasses that every layer shares: what a rollout, a group, a finetune or a job *is*.

No numpy, no torch, no protobuf: values cross process and service boundaries and live in the light half too.
`moontune.wire` maps them to messages and back.
"""
