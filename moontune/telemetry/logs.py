"""Structured logs: one event per line, JSON or for the console, with what is bound to the call (request id).

Everything, also what libraries log through the standard library, goes to standard error in one form.
"""

import logging
import sys
from dataclasses import dataclass
from enum import StrEnum

import structlog


class LogFormat(StrEnum):
    """json: one object per line. console: for people. auto: console on a terminal, else json."""

    JSON = "json"
    CONSOLE = "console"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """level: a standard level name. service: bound to every line."""

    service: str = ""
    level: str = "INFO"
    format: LogFormat = LogFormat.AUTO


def configure_logs(settings: LogSettings) -> None:
    """Set up structlog and the standard library's root logger for this process; replaces an earlier set-up."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _ServiceName(settings.service),
    ]
    json = settings.format is LogFormat.JSON or (settings.format is LogFormat.AUTO and not sys.stderr.isatty())
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=False)]
        if json
        else [_console()]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; `name` is the module's `__name__`. Log events as short lower-case names with key-value facts.

    It hands on to the standard library's logger of that name also where `configure_logs` never ran: a user's script
    that imports our clients then hears of warnings only, on standard error, as from any other library. Local variables
    are never shown (structlog's own default shows them, and a key with them).
    """
    if not structlog.is_configured():
        structlog.configure(processors=[structlog.stdlib.add_log_level, _console()])
    return structlog.wrap_logger(logging.getLogger(name), wrapper_class=structlog.stdlib.BoundLogger)


def _console() -> structlog.dev.ConsoleRenderer:
    # The default formatter shows local variables, secrets too, and has crashed on objects of C extensions.
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


class _ServiceName:
    """Adds the service's name to each line, unless the line brings its own (colocated services do)."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if self._service:
            event.setdefault("service", self._service)
        return event
