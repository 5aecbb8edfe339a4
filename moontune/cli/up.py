"""`moontune up`: every service on this machine, with one data folder."""

import asyncio
import fcntl
import signal
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.table import Table

import moontune
from moontune.cli.failure import EXIT_FAILED, plain_errors
from moontune.cli.stack import probe
from moontune.cli.stack.plan import StackOptions, listeners, plan
from moontune.cli.stack.process import Listener
from moontune.cli.stack.supervisor import StackFailed, Supervisor
from moontune.clients.credentials import Credentials
from moontune.clients.reward import RewardClient
from moontune.errors import InvalidField, InvalidState, MoontuneError
from moontune.values.sandbox import SandboxProfile

START_TIMEOUT_S = 300.0
STOP_GRACE_S = 35.0


@plain_errors
def up(
    base: Annotated[str, typer.Option(help="Base model: a name, or a folder.")] = "moontune-tiny",
    data_dir: Annotated[Path, typer.Option(help="Folder of everything that is kept.")] = Path("moontune-data"),
    gateway_port: Annotated[int, typer.Option(help="HTTP port of the gateway.")] = 8080,
    port_base: Annotated[int, typer.Option(help="gRPC services take the five ports above.")] = 7050,
    colocate: Annotated[
        str, typer.Option(help="Services that share one process and one copy of the base: rollout,trainer,inference.")
    ] = "",
    without: Annotated[str, typer.Option(help="Services to leave down, separated by commas.")] = "",
    sandbox: Annotated[
        SandboxProfile, typer.Option(help="What keeps user reward code in; trusted is nothing, for your own code only.")
    ] = SandboxProfile.POD,
) -> None:
    """Start every service, print where each listens, restart what crashes; Ctrl-C drains and stops all."""
    console = Console(highlight=False, soft_wrap=True)
    from moontune.model.base_folders import named_base  # pydantic takes its time, and no other command needs it

    root = _root(console)
    options = StackOptions(
        base=named_base(base),
        data_dir=data_dir.expanduser().resolve(),
        root=root,
        gateway_port=gateway_port,
        port_base=port_base,
        colocate=_names(colocate),
        without=_names(without),
        sandbox=sandbox,
    )
    options.validate()
    _check_ports(listeners(options))
    with _locked(options.data_dir):
        raise typer.Exit(asyncio.run(_run(options, console)))


async def _run(options: StackOptions, console: Console) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(plan(options), probe.ready, lambda line: console.print(f"[yellow]{line}[/]"))
    started = time.monotonic()
    console.print(f"moontune {version('moontune')}: starting on {options.base}, data in {options.data_dir}")
    starting = asyncio.create_task(supervisor.start(START_TIMEOUT_S))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    try:
        if starting.done():
            starting.result()
            console.print(_listening(options))
            if "reward" in options.services:
                console.print(await _user_code(options))
            console.print(f"ready in {time.monotonic() - started:.1f} s; Ctrl-C stops all")
            await stop.wait()
        else:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
    except StackFailed as failure:
        console.print(f"[bold red]error[/] {failure}", markup=True)
        return EXIT_FAILED
    finally:
        stopping.cancel()
    console.print("stopping: what is under way is ended first")
    await supervisor.stop(STOP_GRACE_S)
    return 0


def _listening(options: StackOptions) -> Table:
    table = Table("service", "address", "metrics", "log in the data folder", box=None, pad_edge=False)
    for spec in plan(options):
        for listener in spec.listeners:
            address = f"127.0.0.1:{listener.port}"
            log = spec.log.relative_to(options.data_dir)
            shown = f"http://{address}" if listener.http else address
            table.add_row(listener.service, shown, f":{listener.port + 1000}/metrics", str(log))
    return table


async def _user_code(options: StackOptions) -> str:
    """One line: whether user reward code runs on this machine, and what holds it."""
    credentials = Credentials(internal_token=options.internal_token)
    try:
        async with RewardClient(f"127.0.0.1:{options.port('reward')}", credentials) as client:
            status = await client.sandbox_status(deadline_s=30.0)
    except MoontuneError as error:
        return f"[yellow]user reward code: its state is not known ({error.message})[/]"
    layers = status.layers
    if status.profile is SandboxProfile.TRUSTED:
        return "[yellow]user reward code runs without a sandbox (trusted): only your own, and only from this machine[/]"
    if status.user_code_allowed:
        held = ", ".join(layer.name for layer in layers if layer.active)
        return f"user reward code: {' and '.join(status.languages)} in the {status.profile} sandbox ({held})"
    missing = "; ".join(f"{layer.name}: {layer.detail}" for layer in layers if layer.required and not layer.active)
    return f"[yellow]user reward code is off, {missing}; --sandbox trusted runs your own code unconfined[/]"


def _root(console: Console) -> Path:
    """The folder with `services/`: a checkout. A wheel has none, and the services cannot run from it."""
    root = Path(moontune.__file__).resolve().parent.parent
    if (root / "services" / "jobs" / "__main__.py").is_file():
        return root
    console.print(
        "this is an installed package: it has the clients and this command line, not the services.\n"
        "In a checkout of the repository:  make setup && .venv/bin/moontune up\n"
        "With container images: build and start them from the checkout's deploy/ folder\n"
        "Every other command works here; --server and --key say which machine to talk to."
    )
    raise typer.Exit(EXIT_FAILED)


def _names(given: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in given.split(",") if name.strip())


def _check_ports(wanted: Sequence[Listener]) -> None:
    """Raise InvalidField naming the first port that something else listens on."""
    for listener in wanted:
        for port in (listener.port, listener.port + 1000):
            with socket.socket() as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    tried.bind(("127.0.0.1", port))
                except OSError:
                    option = "--gateway-port" if listener.http else "--port-base"
                    raise InvalidField.of(
                        "port", port, f"a free one for {listener.service}; this one is taken, choose with {option}"
                    ) from None


def _locked(folder: Path) -> TextIO:
    """Hold the data folder for this process; InvalidState if another `moontune up` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InvalidState(f"another moontune up runs on {folder}; stop it, or choose --data-dir") from None
    return lock
