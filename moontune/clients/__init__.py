"""Typed clients, one per service: the only way to call another service. They take and return `moontune.values`."""
