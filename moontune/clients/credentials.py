"""What a client shows to a service: an API key, or our internal token on a caller's behalf; and how it encrypts."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc

from moontune.auth.authenticator import KEY_HEADER
from moontune.auth.context import current_principal
from moontune.auth.internal_token import sign


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to a service. authority: PEM roots, None for the system's. certificate and key: this client's, for mTLS.

    server_name: the name on the server's certificate where it is not the one dialled.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """As gRPC wants them; raises OSError for a file that cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.authority.read_bytes() if self.authority else None,
            private_key=self.key.read_bytes() if self.key else None,
            certificate_chain=self.certificate.read_bytes() if self.certificate else None,
        )


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a client proves who it is; nothing at all works on a machine where no keys are configured.

    api_key: a user's. internal_token: between our services; the organisation is then that of the request being
    answered (`moontune.auth.context`), unless `organisation` fixes it. tls: None is plaintext.
    """

    api_key: str | None = field(default=None, repr=False)
    internal_token: str | None = field(default=None, repr=False)
    organisation: str | None = None
    tls: Tls | None = None

    def metadata(self) -> dict[str, str]:
        """The entries of one call; the token is signed anew each time."""
        if self.internal_token is not None:
            caller = current_principal()
            quota = caller.limits.storage_bytes
            return sign(self.internal_token, self.organisation or caller.organisation, storage_bytes=quota)
        return {KEY_HEADER: self.api_key} if self.api_key else {}
