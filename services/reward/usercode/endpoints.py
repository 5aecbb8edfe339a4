"""Where user rewards may be sent: only to hosts that the operator lists."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from moontune.errors import InvalidField


def check_endpoint(endpoint: str, allowed: Sequence[str], field: str) -> None:
    """Raise InvalidField unless the endpoint's `host` or `host:port` is in the list, letter by letter.

    endpoint: `host:port`, or a URL for a judge.
    """
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    plain = parts.scheme in ("", "http", "https") and not (parts.username or parts.password or parts.query)
    if plain and host and (host in allowed or (port is not None and f"{host}:{port}" in allowed)):
        return
    listed = ", ".join(allowed) or "none; the operator sets MOONTUNE_REWARD_ALLOWED_ENDPOINTS"
    raise InvalidField.of(field, endpoint, f"host:port or URL whose host is allowed: {listed}")
