"""The one mapping between messages (`moontune.api`) and values (`moontune.values`), in both directions.

`<noun>_to_proto` and `<noun>_from_proto` are pure functions. Reading is strict: an unset oneof, an unspecified enum or
a missing submessage that the contract requires raises `errors.InvalidField` with the field's path, as does a value out
of range. `field` is always that path's beginning, as the caller's request has it.
"""
