"""Whether and how a service encrypts, from its settings; plaintext leaves the machine only when asked for by name."""

from pathlib import Path

import grpc

from moontune.serving.settings import ServiceSettings, StartupError


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """TLS (with tls_client_ca: mutual TLS) credentials; None for plaintext.

    Raises:
        StartupError: half a certificate, a file that cannot be read, or plaintext off loopback without `insecure`.
    """
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise StartupError("tls_certificate and tls_key go together; only one of them is set")
    if settings.tls_certificate is None or settings.tls_key is None:
        if settings.tls_client_ca is not None:
            raise StartupError("tls_client_ca needs tls_certificate and tls_key")
        if not settings.loopback and not settings.insecure:
            raise StartupError(
                f"host is {settings.host!r}, which other machines can reach, and no TLS is set; set tls_certificate "
                "and tls_key, or listen on 127.0.0.1, or set insecure=true where the network itself is trusted"
            )
        return None
    roots = None if settings.tls_client_ca is None else _read(settings.tls_client_ca, "tls_client_ca")
    pair = (_read(settings.tls_key, "tls_key"), _read(settings.tls_certificate, "tls_certificate"))
    return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=roots is not None)


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"{name}: cannot read {path}: {error.strerror}") from None
