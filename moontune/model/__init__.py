"""Model families: what a base model is, how it answers, how its decisions are scored again.

`config`, `codec` (scalar part), `prompt`, `layout` hold plain values; everything else needs torch. Nothing here
knows of gRPC, services or checkpoints' homes. One notation for shapes throughout (CONTRIBUTING, "Notation"):
B batch, T query positions, S key positions, D hidden, V vocabulary, P image tokens, N crops, E vision width, G group.
"""
