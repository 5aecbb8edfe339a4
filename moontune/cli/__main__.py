"""`python -m moontune.cli`: the `moontune` command."""

from moontune.cli.main import app

if __name__ == "__main__":
    app()
