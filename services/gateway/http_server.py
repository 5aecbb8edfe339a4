"""uvicorn around the application: logs in our form, metrics page, drain on SIGTERM."""

import sys

import uvicorn

from moontune.serving.settings import StartupError, print_help
from moontune.telemetry.logs import LogSettings, configure_logs, get_logger
from moontune.telemetry.metrics import MetricsPage, ServiceMetrics
from services.gateway.app import create_app
from services.gateway.config import GatewaySettings
from services.gateway.http_protocol import PatientProtocol

log = get_logger(__name__)

KEEP_ALIVE_S = 75
HEADER_BYTES = 64 * 1024


def run_gateway(argv: list[str] | None = None) -> None:
    """Read settings, serve until SIGTERM or SIGINT, drain; exits with 1 where it cannot start."""
    flags = sys.argv[1:] if argv is None else argv
    if "--help" in flags or "-h" in flags:
        print_help(GatewaySettings)
        return
    try:
        settings = GatewaySettings.load(flags)
    except StartupError as error:
        sys.exit(f"moontune gateway: {error}")
    configure_logs(LogSettings("gateway", settings.log_level, settings.log_format))
    log.info("settings", service="gateway", **settings.shown())
    metrics = ServiceMetrics(process=True)
    try:
        page = MetricsPage(metrics, settings.host, settings.bound_metrics_port)
    except OSError as error:
        sys.exit(f"moontune gateway: cannot serve /metrics on port {settings.bound_metrics_port}: {error.strerror}")
    try:
        server(settings, metrics).run()
    finally:
        page.close()


def server(settings: GatewaySettings, metrics: ServiceMetrics) -> uvicorn.Server:
    """The HTTP server, not started."""
    config = uvicorn.Config(
        create_app(settings, metrics),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=str(settings.tls_certificate) if settings.tls_certificate else None,
        ssl_keyfile=str(settings.tls_key) if settings.tls_key else None,
        ssl_ca_certs=str(settings.tls_client_ca) if settings.tls_client_ca else None,
        ssl_cert_reqs=2 if settings.tls_client_ca else 0,  # ssl.CERT_REQUIRED, ssl.CERT_NONE
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_grace_s)),
        h11_max_incomplete_event_size=HEADER_BYTES,
        http=PatientProtocol,
        limit_concurrency=settings.most_connections,
    )
    return uvicorn.Server(config)
