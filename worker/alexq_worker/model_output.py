"""What the model commands tell people, and which version they leave active."""

from __future__ import annotations

import typer

from alexq_schema.models import ModelStore, ModelVersion


def say(text: str) -> None:
    """Tell the person something, on stderr."""
    typer.echo(f"alexq models: {text}", err=True)


def report(store: ModelStore, version: ModelVersion, *, activate: bool = False) -> None:
    """Activate the version if that is asked for or none is active; say which one workers will serve."""
    ref = version.info.ref
    active = store.active_ref()
    if active == ref:
        say(f"{ref} is in {version.folder} and active already")
    elif activate or active is None:
        store.activate(ref)
        say(f"{ref} is in {version.folder} and active: workers serve it")
    else:
        say(f"{ref} is in {version.folder}; workers serve {active} until `alexq models activate {ref}`")
    typer.echo(ref)
