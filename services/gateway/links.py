"""Signed links that work without a key for a while: Moondream's clients fetch a checkpoint's file without headers.

<base64url of {"o": organisation, "f": finetune_id, "s": step, "k": form, "e": unix seconds}>.<base64url of its MAC>
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import cast

from moontune.errors import PermissionDenied
from moontune.values.adapter import ExportKind


class LinkExpired(Exception):
    """The link's time is over."""


@dataclass(frozen=True, slots=True)
class CheckpointLink:
    """What a link gives: a saved step of an organisation, in one form."""

    organisation: str
    finetune_id: str
    step: int
    kind: ExportKind


class LinkSigner:
    """Writes and reads links with one secret, which it derives a key of its own from."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.new(secret, b"checkpoint-links", hashlib.sha256).digest()

    def write(self, link: CheckpointLink, lifetime_s: int) -> str:
        """The link's token."""
        expires = int(time.time()) + lifetime_s
        fields = {"o": link.organisation, "f": link.finetune_id, "s": link.step, "k": str(link.kind), "e": expires}
        payload = json.dumps(fields, separators=(",", ":")).encode()
        return f"{_text(payload)}.{_text(self._mac(payload))}"

    def read(self, token: str) -> CheckpointLink:
        """What a token gives.

        Raises:
            PermissionDenied: it is not ours. LinkExpired: it was.
        """
        head, _, mac = token.partition(".")
        try:
            payload, given = _bytes(head), _bytes(mac)
        except (binascii.Error, ValueError):
            payload, given = b"", b""
        if not payload or not hmac.compare_digest(given, self._mac(payload)):
            raise PermissionDenied(
                "the link is not signed by this gateway; ask .../checkpoints/{step}/download for one"
            )
        fields = cast("dict[str, str | int]", json.loads(payload))
        if int(fields["e"]) < time.time():
            raise LinkExpired
        return CheckpointLink(str(fields["o"]), str(fields["f"]), int(fields["s"]), ExportKind(str(fields["k"])))

    def _mac(self, payload: bytes) -> bytes:
        return hmac.new(self._key, payload, hashlib.sha256).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
