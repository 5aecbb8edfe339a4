"""`moontune checkpoints ...`: saved steps of finetunes, on a server."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from moontune.cli.checkpoint_diff import differences
from moontune.cli.failure import plain_errors
from moontune.cli.server import DEFAULT_SERVER, CaOption, JsonOption, KeyOption, ServerOption, address, credentials
from moontune.cli.table import show_rows
from moontune.clients.trainer import TrainerClient
from moontune.errors import InvalidField
from moontune.values.adapter import AdapterImport, ExportKind, ImportKind
from moontune.values.finetune import Checkpoint, CheckpointRef

T = TypeVar("T")

app = typer.Typer(help="Saved steps of finetunes.", no_args_is_help=True)
FinetuneArgument = Annotated[str, typer.Argument(metavar="FINETUNE", help="Its id, as finetunes list shows it.")]
StepArgument = Annotated[str, typer.Argument(metavar="FINETUNE@STEP", help="A saved step of a finetune.")]


@app.command("list")
@plain_errors
def list_checkpoints(
    finetune: FinetuneArgument,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """List a finetune's checkpoints, latest step first."""
    found = _ask(server, key, ca, lambda client: _all(client, finetune))
    show_rows([_row(checkpoint) for checkpoint in found], json=json, empty="nothing is saved yet")


@app.command()
@plain_errors
def show(
    step: StepArgument,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Show a checkpoint with the health figures of its step."""
    checkpoint = _ask(server, key, ca, lambda client: client.get_checkpoint(ref_of(step)))
    facts: dict[str, object] = {**_row(checkpoint), "adapter_digest": checkpoint.adapter_digest, **checkpoint.metrics}
    if json:
        show_rows([facts], json=True, empty="")
        return
    show_rows([{"what": name, "value": value} for name, value in facts.items()], json=False, empty="")


@app.command()
@plain_errors
def export(
    step: StepArgument,
    to: Annotated[Path, typer.Option(help="Folder that the files are written to; made where missing.")],
    form: Annotated[ExportKind, typer.Option(help="Form of the files.")] = ExportKind.PEFT,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
) -> None:
    """Write a checkpoint's adapter, or the base with it merged in, to a folder."""
    manifest = _ask(server, key, ca, lambda client: client.export_checkpoint(ref_of(step), form, to))
    names = ", ".join(file.name for file in manifest.files)
    _say(f"{form} of {manifest.policy.finetune_id}@{manifest.policy.step} in {to}: {names}")


@app.command("import")
@plain_errors
def bring_in(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the adapter's files, and no others.")],
    name: Annotated[str, typer.Option(help="Name of the new finetune.")],
    form: Annotated[ImportKind, typer.Option(help="Form of the files.")] = ImportKind.PEFT,
    alpha: Annotated[float | None, typer.Option(help="Scale numerator, where the form carries none.")] = None,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
) -> None:
    """Make a finetune from an adapter's files."""
    if not folder.is_dir():
        raise InvalidField.of("folder", str(folder), "a folder with an adapter's files")
    order = AdapterImport("", name, form, (), alpha=alpha)
    finetune = _ask(server, key, ca, lambda client: client.import_adapter(order, folder))
    _say(f"finetune {finetune.id} on {finetune.base}: {finetune.kind}, rank {finetune.lora.rank}, step 0")


@app.command()
@plain_errors
def diff(
    first: StepArgument,
    second: StepArgument,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two checkpoints: health figures, and how far each tensor moved."""
    refs = ref_of(first), ref_of(second)
    rows = _ask(server, key, ca, lambda client: differences(client, *refs))
    show_rows(rows, json=json, empty="they are equal")


@app.command()
@plain_errors
def prune(
    finetune: FinetuneArgument,
    keep: Annotated[int, typer.Option(min=1, help="The latest ones stay; at least 1.")],
    older_than_hours: Annotated[float, typer.Option(min=0, help="Only ones saved longer ago.")] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it they are only listed.")] = False,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
) -> None:
    """Delete a finetune's older checkpoints and free their space. The latest never goes."""

    async def work(client: TrainerClient) -> list[Checkpoint]:
        limit = datetime.now(UTC) - timedelta(hours=older_than_hours)
        gone = [each for each in (await _all(client, finetune))[keep:] if each.created_at <= limit]
        for checkpoint in gone if yes else ():
            await client.delete_checkpoint(CheckpointRef(finetune, checkpoint_id=checkpoint.id))
        return gone

    gone = _ask(server, key, ca, work)
    freed = sum(checkpoint.size_bytes for checkpoint in gone)
    steps = ", ".join(str(checkpoint.step) for checkpoint in gone) or "none"
    _say(f"{'deleted' if yes else 'would delete (--yes does it)'}: steps {steps}; {freed} bytes")


def ref_of(text: str) -> CheckpointRef:
    """`<finetune id>@<step>`; InvalidField for anything else."""
    finetune_id, _, step = text.rpartition("@")
    if not finetune_id or not (step.isascii() and step.isdigit()):
        raise InvalidField.of("checkpoint", text, "<finetune id>@<step>, 01K...@40 say")
    return CheckpointRef(finetune_id, step=int(step))


async def _all(client: TrainerClient, finetune_id: str) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    token = ""
    while True:
        page = await client.list_checkpoints(finetune_id, page_size=1000, page_token=token)
        found += page.items
        token = page.next_page_token
        if not token:
            return found


def _row(checkpoint: Checkpoint) -> dict[str, object]:
    expires = checkpoint.expires_at
    return {
        "id": f"{checkpoint.finetune_id}@{checkpoint.step}",
        "saved": f"{checkpoint.created_at:%Y-%m-%d %H:%M}",
        "bytes": checkpoint.size_bytes,
        "expires": "" if expires is None else f"{expires:%Y-%m-%d %H:%M}",
    }


def _ask(server: str, key: str, ca: Path | None, work: Callable[[TrainerClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with TrainerClient(address(server, "trainer"), credentials(key, ca)) as client:
            return await work(client)

    return asyncio.run(run())


def _say(line: str) -> None:
    Console(highlight=False, soft_wrap=True).print(escape(line))
