"""Prometheus instruments from the registry of names, one collector registry per service, and its `/metrics` page.

A registry per service and not the global one: several services can share a process (colocation, tests).
"""

import socket
from collections.abc import Callable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from moontune.telemetry.names import Kind, MetricName

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

Instrument = Counter | Gauge | Histogram


class ServiceMetrics:
    """The instruments of one service, made on first use."""

    def __init__(self, *, process: bool = False) -> None:
        """process: also report the process's CPU, memory and files."""
        self.registry = CollectorRegistry()
        self._made: dict[str, Instrument] = {}
        if process:
            ProcessCollector(registry=self.registry)

    def counter(self, metric: MetricName, **labels: str) -> Counter:
        """The counter of a registered name, with every one of its labels."""
        made = self._get(metric, Kind.COUNTER, lambda: Counter(*self._named(metric), registry=self.registry))
        assert isinstance(made, Counter)
        return made.labels(**labels) if metric.labels else made

    def gauge(self, metric: MetricName, **labels: str) -> Gauge:
        """The gauge of a registered name, with every one of its labels."""
        made = self._get(metric, Kind.GAUGE, lambda: Gauge(*self._named(metric), registry=self.registry))
        assert isinstance(made, Gauge)
        return made.labels(**labels) if metric.labels else made

    def histogram(self, metric: MetricName, **labels: str) -> Histogram:
        """The histogram of a registered name, with every one of its labels."""
        made = self._get(
            metric,
            Kind.HISTOGRAM,
            lambda: Histogram(*self._named(metric), registry=self.registry, buckets=metric.buckets),
        )
        assert isinstance(made, Histogram)
        return made.labels(**labels) if metric.labels else made

    def remove(self, metric: MetricName, **labels: str) -> None:
        """Drop one series of a labelled metric; one that does not exist is no error."""
        made = self._made.get(metric.name)
        if made is not None:
            made.remove_by_labels(labels)

    def value(self, metric: MetricName, **labels: str) -> float | None:
        """The present value of a counter or gauge; of a histogram its count. None before its first use."""
        name = metric.name + ("_count" if metric.kind is Kind.HISTOGRAM else "")
        return self.registry.get_sample_value(name, labels)

    def _get(self, metric: MetricName, kind: Kind, make: Callable[[], Instrument]) -> Instrument:
        if metric.kind is not kind:
            raise TypeError(f"{metric.name} is a {metric.kind}, not a {kind}")
        if metric.name not in self._made:
            self._made[metric.name] = make()
        return self._made[metric.name]

    @staticmethod
    def _named(metric: MetricName) -> tuple[str, str, tuple[str, ...]]:
        return metric.name, metric.help, metric.labels


class MetricsPage:
    """The `/metrics` page, served by threads of its own: a busy event loop cannot delay a scrape."""

    def __init__(self, metrics: ServiceMetrics, host: str, port: int) -> None:
        """Start serving; port 0 takes a free one. Raises OSError where the port is taken."""
        kind = _Ipv6Server if ":" in host else _Server
        self._server = make_server(host, port, _wsgi_app(metrics.registry), kind, _QuietHandler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop serving and close the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _wsgi_app(registry: CollectorRegistry) -> "WSGIApplication":
    return cast("WSGIApplication", prometheus_client.make_wsgi_app(registry))


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Ipv6Server(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is not worth a line each."""
