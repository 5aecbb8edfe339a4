"""The `moontune` command."""

import typer

from moontune.cli import checkpoints, jobs, keys, listing, models, rewards
from moontune.cli.health import health
from moontune.cli.train import train
from moontune.cli.up import up
from moontune.telemetry.logs import LogSettings, configure_logs

app = typer.Typer(
    help="Reinforcement finetuning of vision-language models on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def quieten() -> None:
    """Reinforcement finetuning of vision-language models on your own machine."""
    configure_logs(LogSettings("moontune", "WARNING"))  # a client's retries are no news to a person


app.command()(up)
app.command()(train)
app.command()(health)
app.add_typer(jobs.app, name="jobs")
app.add_typer(keys.app, name="keys")
app.add_typer(listing.finetunes, name="finetunes")
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(rewards.app, name="rewards")
app.add_typer(models.app, name="models")
