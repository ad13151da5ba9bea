"""``alexq secrets``: the secrets of a deployment, at random, one a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MADE = (
    "alexq_database_password",
    "alexq_broker_password",
    "alexq_monitor_login",
    "alexq_api_key",
    "grafana_password",
    "redis.acl",
)
"""In this order: the broker's list of users has a hash of its password."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(secrets)


def secrets(
    folder: Annotated[Path, typer.Argument(help="Where to write them.", show_default=False)],
) -> None:
    """Make the secrets of a deployment that FOLDER lacks; those that are there stay as they are.

    Any user may read the files, as a container engine hands them to users of its own: keep FOLDER closed.
    """
    from alexq_schema.errors import StackError

    made = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in MADE:
            if not (file := folder / name).exists():
                file.write_text(_secret(name, folder) + "\n")
                file.chmod(0o444)
                made.append(name)
    except OSError as error:
        raise StackError(
            f"cannot write the secrets in {folder}: {error.filename}: {error.strerror}"
        ) from error
    typer.echo(f"made in {folder}: {', '.join(made) or 'nothing, all are there'}", err=True)


def _secret(name: str, folder: Path) -> str:
    import hashlib
    import secrets as random

    from alexq_schema import keys

    if name == "alexq_api_key":
        return keys.new_key()
    if name == "redis.acl":
        password = (folder / "alexq_broker_password").read_text().strip()
        sha256 = hashlib.sha256(password.encode()).hexdigest()
        # Without a password one may only ask whether the server answers: its health check has none.
        return f"user default on nopass resetkeys resetchannels -@all +ping\n{_USER} #{sha256} {_RIGHTS}"
    # Nothing that a URL, a shell or a configuration file would read as its own.
    password = random.token_hex(24)
    return f"admin:{password}" if name == "alexq_monitor_login" else password


_USER = "user alexq on"
_RIGHTS = "~* &* +@all -@dangerous -@admin +info"
"""Every key and channel, but nothing that could stop the server or look at others."""
