"""``alexq doctor``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from alexq.cli.options import DataDir, Json, given

if TYPE_CHECKING:
    from rich.table import Table

    from alexq.doctor import Check


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(doctor)


def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Check everything alexq needs here, and say how to fix what fails."""
    from alexq.doctor import run_checks
    from alexq_schema.settings import Settings

    checks = []
    for check in run_checks(Settings.load(**given(data_dir=data_dir))):
        checks.append(check)
        if as_json:
            typer.echo(json.dumps(asdict(check), ensure_ascii=False))
    if not as_json:
        from rich.console import Console

        Console(highlight=False).print(_table(checks))
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def _table(checks: Sequence[Check]) -> Table:
    """Return the checks as a table for people."""
    from rich.table import Column, Table
    from rich.text import Text

    # Folded, never cut: a path or a hash is what one needs.
    shown = Table("", "check", Column("found", overflow="fold"), Column("fix", overflow="fold"))
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("FAIL", style="bold red")
        shown.add_row(mark, check.name, Text(check.found), Text(check.fix))
    return shown
