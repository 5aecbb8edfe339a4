"""How one moontune service proves to another that it is one, and for whose organisation it calls.

Both hold one shared secret. The caller sends `x-moontune-organisation: <organisation>` and
`x-moontune-internal: <unix seconds>.<hex HMAC-SHA256 of "<unix seconds>|<organisation>">`: the secret itself never
travels, and a captured value neither outlives the window nor works for another organisation.
"""

import hashlib
import hmac
import time

from moontune.errors import Unauthenticated
from moontune.values.principal import Principal, Scope

TOKEN_HEADER = "x-moontune-internal"
ORGANISATION_HEADER = "x-moontune-organisation"
WINDOW_S = 300


def sign(secret: str, organisation: str, now_s: float | None = None) -> dict[str, str]:
    """The two metadata entries of a call on behalf of an organisation."""
    stamp = str(int(time.time() if now_s is None else now_s))
    return {TOKEN_HEADER: f"{stamp}.{_mac(secret, stamp, organisation)}", ORGANISATION_HEADER: organisation}


def verify(secret: str, token: str, organisation: str, now_s: float | None = None) -> Principal:
    """The principal of a call that carries these entries; all scopes, internal.

    Raises:
        Unauthenticated: the token is not ours, or older (or newer) than WINDOW_S.
    """
    stamp, _, mac = token.partition(".")
    if not organisation or not hmac.compare_digest(mac.encode(), _mac(secret, stamp, organisation).encode()):
        raise Unauthenticated(f"the {TOKEN_HEADER} entry is not signed with this service's internal token")
    if abs((time.time() if now_s is None else now_s) - int(stamp)) > WINDOW_S:
        raise Unauthenticated(f"the {TOKEN_HEADER} entry is more than {WINDOW_S} s off; check both machines' clocks")
    return Principal(organisation, frozenset(Scope), internal=True)


def _mac(secret: str, stamp: str, organisation: str) -> str:
    return hmac.new(secret.encode(), f"{stamp}|{organisation}".encode(), hashlib.sha256).hexdigest()
