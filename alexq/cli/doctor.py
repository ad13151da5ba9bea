"""``alexq doctor``."""

import json
from dataclasses import asdict

import typer

from alexq.cli.options import DataDir, Json, given


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(doctor)


def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Check everything alexq needs here, and say how to fix what fails."""
    from alexq.doctor import run_checks, table
    from alexq_schema.settings import Settings

    checks = []
    for check in run_checks(Settings.load(**given(data_dir=data_dir))):
        checks.append(check)
        if as_json:
            typer.echo(json.dumps(asdict(check), ensure_ascii=False))
    if not as_json:
        from rich.console import Console

        Console(highlight=False).print(table(checks))
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)
