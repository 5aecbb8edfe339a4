"""How one moontune service proves to another that it is one, and for whose organisation it calls.

Both hold one shared secret. The caller sends `x-moontune-organisation: <organisation>` and
`x-moontune-internal: <unix seconds>.<hex HMAC-SHA256 of "<unix seconds>|<organisation>">`: the secret itself never
travels, and a captured value neither outlives the window nor works for another organisation. Where the caller's key
has a storage quota, `x-moontune-storage-bytes` carries it and "|<bytes>" is part of what is signed.
"""

import hashlib
import hmac
import time

from moontune.errors import Unauthenticated
from moontune.values.principal import KeyLimits, Principal, Scope

TOKEN_HEADER = "x-moontune-internal"
ORGANISATION_HEADER = "x-moontune-organisation"
STORAGE_HEADER = "x-moontune-storage-bytes"
WINDOW_S = 300


def sign(
    secret: str, organisation: str, now_s: float | None = None, storage_bytes: int | None = None
) -> dict[str, str]:
    """The metadata entries of a call on behalf of an organisation. storage_bytes: the quota of the caller's key."""
    stamp = str(int(time.time() if now_s is None else now_s))
    quota = "" if storage_bytes is None else str(storage_bytes)
    entries = {TOKEN_HEADER: f"{stamp}.{_mac(secret, stamp, organisation, quota)}", ORGANISATION_HEADER: organisation}
    return entries | ({STORAGE_HEADER: quota} if quota else {})


def verify(secret: str, token: str, organisation: str, now_s: float | None = None, quota: str = "") -> Principal:
    """The principal of a call that carries these entries; all scopes, internal. quota: the entry of STORAGE_HEADER.

    Raises:
        Unauthenticated: the token is not ours, or older (or newer) than WINDOW_S.
    """
    stamp, _, mac = token.partition(".")
    if not organisation or not hmac.compare_digest(mac.encode(), _mac(secret, stamp, organisation, quota).encode()):
        raise Unauthenticated(f"the {TOKEN_HEADER} entry is not signed with this service's internal token")
    if abs((time.time() if now_s is None else now_s) - int(stamp)) > WINDOW_S:
        raise Unauthenticated(f"the {TOKEN_HEADER} entry is more than {WINDOW_S} s off; check both machines' clocks")
    limits = KeyLimits(storage_bytes=int(quota) if quota else None)
    return Principal(organisation, frozenset(Scope), internal=True, limits=limits)


def _mac(secret: str, stamp: str, organisation: str, quota: str) -> str:
    signed = f"{stamp}|{organisation}" + (f"|{quota}" if quota else "")
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()
