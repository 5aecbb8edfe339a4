"""`moontune rewards list | show | try | import`."""

import asyncio
import json as jsonlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moontune.cli.failure import plain_errors
from moontune.cli.reward_pictures import write_pictures
from moontune.cli.reward_trial import Trial, TrialOptions, answered, from_answers, generated
from moontune.cli.reward_trial_view import report_record, show_report
from moontune.cli.server import DEFAULT_SERVER, CaOption, JsonOption, KeyOption, ServerOption, address, credentials
from moontune.clients.credentials import Credentials
from moontune.clients.reward import RewardClient
from moontune.clients.rollout import RolloutClient
from moontune.data.job_file import reward_to_document
from moontune.data.openai_grader import import_grader
from moontune.errors import RewardNotFound
from moontune.values.reward import RewardInfo
from moontune.values.reward_definition import UserCode
from moontune.values.skill import Skill

T = TypeVar("T")
app = typer.Typer(help="Rewards: what there is, and how one does before it is trained on.", no_args_is_help=True)


@app.command("list")
@plain_errors
def list_rewards(
    server: ServerOption = DEFAULT_SERVER, key: KeyOption = "", ca: CaOption = None, json: JsonOption = False
) -> None:
    """List every reward: skills, labels that it reads, range."""
    infos = _call(server, credentials(key, ca), _every)
    if json:
        for info in infos:
            print(jsonlib.dumps(_record(info)))  # noqa: T201
        return
    table = Table(box=None, pad_edge=False)
    for name in ("name", "skills", "labels", "range", "what it is"):
        table.add_column(name, no_wrap=name == "name")
    for info in infos:
        what = info.description.split(" Source: ", maxsplit=1)[0]
        span = f"{info.minimum:g} to {info.maximum:g}"
        table.add_row(info.name, ", ".join(info.skills), ", ".join(info.labels) or "none", span, escape(what))
    Console(highlight=False).print(table)


@app.command()
@plain_errors
def show(
    name: Annotated[str, typer.Argument(help="A reward's name.")],
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Show one reward: formula, source, traps and parameters."""
    infos = {info.name: info for info in _call(server, credentials(key, ca), _every)}
    if name not in infos:
        raise RewardNotFound(f"no reward is named {name[:80]!r}; there are: {', '.join(infos)}")
    info = infos[name]
    if json:
        print(jsonlib.dumps(_record(info)))  # noqa: T201
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(info.name)}[/]  {info.minimum:g} to {info.maximum:g}")
    console.print(escape(info.description.replace(" Source: ", "\nSource: ").replace(" Beware: ", "\nBeware: ")))
    console.print(f"skills: {', '.join(info.skills)}; ground truth: {' or '.join(info.labels) or 'none needed'}")
    for parameter in info.parameters:
        console.print(f"  [cyan]{escape(parameter.name)}[/] = {parameter.default!r}  {escape(parameter.description)}")


@app.command("try")
@plain_errors
def try_reward(
    reward: Annotated[str, typer.Argument(help="A name, a .py or .js file, components in a file, or a job's config.")],
    samples: Annotated[Path | None, typer.Option(help="Labelled samples: COCO .json or moontune .jsonl.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Answers to grade (a job's predictions .jsonl).")] = None,
    skill: Annotated[Skill, typer.Option(help="What the samples ask for.")] = Skill.DETECT,
    object_name: Annotated[str, typer.Option("--object", help="What point and detect look for.")] = "",
    model: Annotated[str, typer.Option(help="Policy that answers; the rollout service's base where left out.")] = "",
    rollouts: Annotated[int, typer.Option(min=1, max=64, help="Answers to each sample.")] = 8,
    limit: Annotated[int, typer.Option(min=1, max=256, help="Samples, spread over the set.")] = 16,
    reward_range: Annotated[tuple[float, float], typer.Option(help="Least and largest result of the file's code.")] = (
        0.0,
        1.0,
    ),
    pictures: Annotated[Path | None, typer.Option(help="Write the example grades as a picture here.")] = None,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Dry run of a reward on samples: is it readable, alive, and hard to game?"""
    options = TrialOptions(reward, samples, answers, skill, object_name, model, rollouts, limit, reward_range)
    shown = credentials(key, ca)

    async def ask(client: RewardClient) -> Trial:
        if answers is not None:
            return await answered(client, from_answers(options))
        async with RolloutClient(address(server, "rollout"), shown) as policy:
            return await answered(client, await generated(policy, options))

    trial = _call(server, shown, ask)
    if json:
        print(jsonlib.dumps(report_record(trial)))  # noqa: T201
    else:
        show_report(trial, Console(highlight=False))
    if pictures is not None:
        write_pictures(pictures, trial)


@app.command("import")
@plain_errors
def import_rewards(
    file: Annotated[Path, typer.Argument(help="OpenAI grader JSON.", exists=True, dir_okay=False)],
    out: Annotated[Path | None, typer.Option(help="Write the reward here, for a job's config; else print it.")] = None,
    register: Annotated[bool, typer.Option("--register", help="Register the code and judges it needs.")] = False,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Turn an OpenAI grader into a reward, and say what could not be carried."""
    imported = import_grader(file.read_text(encoding="utf-8"))
    if register:

        async def send(client: RewardClient) -> None:
            for definition in imported.definitions:
                await client.register(definition)

        _call(server, credentials(key, ca), send)
    document = {"reward": reward_to_document(imported.spec)}
    needed = [
        {"name": one.name, "kind": str(one.source.language) if isinstance(one.source, UserCode) else "judge"}
        for one in imported.definitions
    ]
    if json:
        print(jsonlib.dumps({**document, "registered": register, "needs": needed, "notes": imported.notes}))  # noqa: T201
        return
    console = Console(highlight=False, soft_wrap=True)
    text = yaml.safe_dump(document, sort_keys=False)
    if out is None:
        console.print(escape(text), end="")
    else:
        out.write_text(text, encoding="utf-8")
        console.print(f"written to {escape(str(out))}")
    for one in needed:
        done = "registered" if register else "to be registered first (--register)"
        console.print(f"[cyan]{escape(one['name'])}[/] ({one['kind']}): {done}")
    for note in imported.notes:
        console.print(f"[yellow]not carried as it was[/] {escape(note)}")


async def _every(client: RewardClient) -> list[RewardInfo]:
    infos: list[RewardInfo] = []
    token = ""
    while True:
        page = await client.list_rewards(page_size=1000, page_token=token)
        infos += page.items
        if not (token := page.next_page_token):
            return infos


def _record(info: RewardInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "description": info.description,
        "skills": list(info.skills),
        "labels": list(info.labels),
        "minimum": info.minimum,
        "maximum": info.maximum,
        "parameters": jsonlib.loads(info.parameters_schema) if info.parameters_schema else _parameters(info.parameters),
    }


def _parameters(parameters: Sequence[object]) -> list[str]:
    return [str(parameter) for parameter in parameters]


def _call(server: str, shown: Credentials, ask: Callable[[RewardClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with RewardClient(address(server, "reward"), shown) as client:
            return await ask(client)

    return asyncio.run(run())
