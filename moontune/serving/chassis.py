"""One service in this process: its gRPC server, interceptors, health, reflection, metrics page, and its drain."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from importlib.metadata import version
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from moontune.auth.audit import AuditLog
from moontune.auth.authenticator import Authenticator
from moontune.serving import call_stages
from moontune.serving.interceptors import ChassisInterceptor
from moontune.serving.settings import ServiceSettings, StartupError
from moontune.serving.tls import server_credentials
from moontune.serving.worker import ModelWorker
from moontune.telemetry import names
from moontune.telemetry.logs import get_logger
from moontune.telemetry.metrics import MetricsPage, ServiceMetrics
from moontune.wire.channel import MESSAGE_OPTIONS

READINESS, LIVENESS = "", "liveness"

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *MESSAGE_OPTIONS,
    ("grpc.so_reuseport", 0),  # else a second service binds the same port in silence
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

log = get_logger(__name__)


class _Registrar:
    """Stands for the server while a generated `add_..._to_server` runs, to learn the service's full name."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service: str, handlers: "dict[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        self.names.append(service)
        cast("Any", self._server).add_registered_method_handlers(service, handlers)


class Chassis:
    """What a service's `build` gets: where to register servicers and what to hook into.

    worker: the model worker that this process has, if any. draining: set when the service starts to stop; long
    streams watch it and end.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        worker: ModelWorker | None = None,
        authenticator: Authenticator | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.worker = worker
        self.metrics = ServiceMetrics(process=True)
        self.draining = asyncio.Event()
        self.port = 0
        self._closed = False
        self._conditions: dict[str, bool] = {"started": False}
        self._service_names: list[str] = []
        self._stops: list[Callable[[], Awaitable[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._page: MetricsPage | None = None
        self._admission = call_stages.Admission()
        self._health: Any = cast("Any", health).aio.HealthServicer()  # the module has no stubs
        secret = settings.internal_token
        stages: list[call_stages.Stage] = [
            call_stages.log_line,
            call_stages.metrics(self.metrics),
            *([call_stages.audited(audit)] if audit is not None else []),
            call_stages.error_mapping,
            self._admission.stage,
            call_stages.authentication(
                authenticator or Authenticator(token=secret.get_secret_value() if secret else None)
            ),
        ]
        self._server = grpc.aio.server(interceptors=[ChassisInterceptor(stages)], options=SERVER_OPTIONS)
        if worker is not None:
            self._watch_worker(worker)

    def add(self, add_to_server: Callable[[Any, grpc.aio.Server], None], servicer: object) -> None:
        """Register a servicer: `chassis.add(trainer_pb2_grpc.add_TrainerServiceServicer_to_server, servicer)`."""
        registrar = _Registrar(self._server)
        add_to_server(servicer, cast("grpc.aio.Server", registrar))
        self._service_names += registrar.names

    def on_stop(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Run `stop` after the last rpc has ended; the last registered runs first."""
        self._stops.append(stop)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run background work of the service; cancelled at its end, its failure is logged.

        The work outlives an rpc that starts it, so it gets neither that rpc's deadline nor its caller nor request id.
        """
        task = asyncio.create_task(work, name=name, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def set_condition(self, name: str, *, ready: bool) -> None:
        """Set one condition of readiness; the service is ready while every one is true."""
        self._conditions[name] = ready
        if self.port:
            self.spawn(self._tell_health(), "health")

    @property
    def ready(self) -> bool:
        """Whether the service takes calls."""
        return all(self._conditions.values()) and not self.draining.is_set()

    @property
    def metrics_port(self) -> int:
        """The port of `/metrics`, once open; 0 before."""
        return self._page.port if self._page else 0

    async def open(self) -> None:
        """Bind the ports and take calls. Raises StartupError for a port that is taken."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self.settings.reflection:
            shown = (*self._service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(shown, self._server)
        self.port = self._bind()
        self._open_metrics()
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._tell_health()
        await self._server.start()
        info = {"service": self.name, "version": version("moontune"), "base": str(getattr(self.settings, "base", ""))}
        self.metrics.gauge(names.BUILD_INFO, **info).set(1)
        self.set_condition("started", ready=True)
        log.info(
            "listening", service=self.name, host=self.settings.host, port=self.port, metrics_port=self.metrics_port
        )

    async def drain(self) -> None:
        """Stop well: NOT_SERVING, wait drain_delay_s, refuse new rpcs, wait drain_grace_s at most for the others."""
        if self.draining.is_set():
            return
        log.info("draining", service=self.name)
        self.draining.set()
        await self._tell_health()
        await asyncio.sleep(self.settings.drain_delay_s)
        self._admission.close()
        try:
            async with asyncio.timeout(self.settings.drain_grace_s):
                await self._admission.wait_idle()
        except TimeoutError:
            log.warning("rpcs cut off by the end of the drain", service=self.name)
        await self.close()

    async def close(self) -> None:
        """Stop now: cancel what is under way, then run the `on_stop` callbacks; again is harmless."""
        self.draining.set()
        await self._server.stop(grace=0.2)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._stops:
            try:
                await self._stops.pop()()
            except Exception as error:  # the others still have to let go of what they hold
                log.error("a stop hook failed", service=self.name, exc_info=error)
        if self._page is not None:
            page, self._page = self._page, None
            await asyncio.to_thread(page.close)
        if not self._closed:
            self._closed = True
            log.info("stopped", service=self.name)

    async def _tell_health(self) -> None:
        serving, stopped = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        for name in (READINESS, *self._service_names):
            await self._health.set(name, serving if self.ready else stopped)
        self.metrics.gauge(names.READY).set(self.ready)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", service=self.name, work=task.get_name(), exc_info=error)

    def _bind(self) -> int:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        address = f"{host}:{self.settings.port}"
        credentials = server_credentials(self.settings)
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise StartupError(f"cannot listen on {address}: the port is taken, or the host is not this one") from None

    def _open_metrics(self) -> None:
        port = self.settings.bound_metrics_port
        try:
            self._page = MetricsPage(self.metrics, self.settings.host, port)
        except OSError as error:
            raise StartupError(f"cannot serve /metrics on {self.settings.host}:{port}: {error.strerror}") from None

    def _watch_worker(self, worker: ModelWorker) -> None:
        def changed(ready: bool) -> None:
            self.metrics.gauge(names.WORKER_READY).set(ready)
            if not ready and not self.draining.is_set():
                self.metrics.counter(names.WORKER_RESTARTS).inc()
            self.set_condition("worker", ready=ready)

        self._conditions["worker"] = worker.ready
        worker.watch(changed)
