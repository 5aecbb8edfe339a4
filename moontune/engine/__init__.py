"""Batched generation: waiting orders, shared prefixes, adapter slots, the decode loop, the record of decisions.

Rollout and inference are thin layers on this. It knows nothing of the wire, and importing the package alone (or
`moontune.engine.order`) does not import torch, so that a front process can build orders.
"""
