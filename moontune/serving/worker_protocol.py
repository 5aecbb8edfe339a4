"""What a service's front process and its model worker say to each other over their private pipe.

Front to worker: `Call`, `Cancel`, `Stop`. Worker to front: `Ready` or `Failed` once, then `Item`, `Done`, `Raised`
by call id. All are pickled; arguments and results are frozen dataclasses. Nothing here imports grpc or torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

BASE_LOADER = "moontune.model.base_model:load_base"
"""Loads a base by name or path on a device; given as text because a front process must not import torch."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a model worker holds.

    base: name or path, the first argument of `loader`. device: the second one; None picks the best there is.
    threads: CPU threads that one operation may use (OMP_NUM_THREADS of the worker).
    components: component name -> "module:factory". The factory gets (base, options) and returns an object whose
        public methods can be called; their first parameter is a `CallContext`.
    options: component name -> its options, pickled; None where a component is not named.
    """

    base: str
    device: str | None = None
    threads: int = 1
    components: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    loader: str = BASE_LOADER


class CallContext(Protocol):
    """What a component's method gets first.

    A component polls `cancelled` between units of work (each decode step) and returns or raises
    `errors.Cancelled` once it is true.
    """

    @property
    def call_id(self) -> int:
        """Unique in this worker's life."""
        ...

    @property
    def request_id(self) -> str:
        """Of the rpc behind this call; for logs."""
        ...

    def cancelled(self) -> bool:
        """Whether the caller left or its deadline passed. Cheap; never blocks."""
        ...

    def remaining_s(self) -> float | None:
        """Seconds to the caller's deadline; None without one."""
        ...

    def emit(self, item: object) -> None:
        """Send one item of a stream to the caller, in order; dropped when the caller left."""
        ...


class Component(Protocol):
    """What a factory may declare beside its methods; all optional.

    worker_threads: how many calls run at once (default 1, in order of arrival).
    immediate: names of methods that never wait behind others: they run on a thread of their own and must be quick
        and thread-safe (status, adapter lists).
    close: called when the worker stops.
    """

    worker_threads: int
    immediate: frozenset[str]

    def close(self) -> None:
        """Let go of what the component holds."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """Run a method. remaining_s: seconds to the caller's deadline when sent; None without one."""

    id: int
    component: str
    method: str
    args: tuple[Any, ...]
    remaining_s: float | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The caller left or its deadline passed."""

    id: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Close the components and exit."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The base is loaded and every component built. facts: name, digest and device of the base, where it has them."""

    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Failed:
    """Loading failed; the worker exits. error: a MoontuneError or a `ComponentFailure`."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a stream."""

    id: int
    value: Any


@dataclass(frozen=True, slots=True)
class Done:
    """A call returned."""

    id: int
    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """A call raised. error: a MoontuneError or a `ComponentFailure`."""

    id: int
    error: Exception


class ComponentFailure(RuntimeError):
    """An exception that is not of our tree, raised in the worker; its text holds the worker's traceback."""


Order = Call | Cancel | Stop
Reply = Item | Done | Raised
