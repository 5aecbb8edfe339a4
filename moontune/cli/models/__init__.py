"""`moontune models ...`: bases on this machine and on the hub, their licences, and what a server serves."""

from moontune.cli.models.commands import app

__all__ = ["app"]
