"""Commands of the HTTP gateway: ``gateway`` and ``keys create|list|revoke``."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from alexq.cli.options import DataDir, Json, given
from alexq_schema.keys import Scope
from alexq_schema.names import DEFAULT_QUEUE

DEFAULT_SCOPES = [Scope.SUBMIT, Scope.READ]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(gateway)
    group = typer.Typer(help="Make, see and end the API keys of the HTTP gateway.", no_args_is_help=True)
    group.command()(create)
    group.command("list")(list_keys)
    group.command()(revoke)
    app.add_typer(group, name="keys")


def gateway(
    data_dir: DataDir = None,
    address: Annotated[
        str | None, typer.Option(help="Where to listen [ALEXQ_GATEWAY_ADDRESS].", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on [ALEXQ_GATEWAY_PORT].", show_default=False)
    ] = None,
) -> None:
    """Run the HTTP gateway on the services of the settings or of the running stack."""
    from alexq.cli.stack import become_connected
    from alexq.stack.environment import require_gateway

    require_gateway()
    become_connected(
        "alexq_producer.gateway", given(data_dir=data_dir, gateway_address=address, gateway_port=port)
    )


def create(
    tenant: Annotated[
        str, typer.Argument(help="Whose jobs it hands in and sees: 1 to 64 of letters, digits, . _ -")
    ],
    name: Annotated[str, typer.Option(help="What the key is for, for people.")] = "",
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="submit, read or admin (which allows all); by default submit and read."),
    ] = None,
    queue: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Where its jobs go (alexq worker --queue); by default the queue without a name.",
            show_default=False,
        ),
    ] = DEFAULT_QUEUE,
    reuse: Annotated[
        bool,
        typer.Option("--reuse", help="Let past results of this tenant answer the same images again."),
    ] = False,
    as_given: Annotated[
        bool, typer.Option("--given", help="Take the key in ALEXQ_API_KEY; once, however often this is run.")
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Make an API key and show it, this once: only its hash is stored."""
    import json

    from alexq.cli.database import opened
    from alexq_schema import keys, queues
    from alexq_schema.db import api_keys
    from alexq_schema.errors import UsageError
    from alexq_schema.settings import Settings

    if not keys.is_tenant(tenant):
        raise UsageError(f"tenant {tenant!r}: give 1 to 64 of letters, digits, . _ -")
    queues.require(queue)
    if len(name) > 255:
        raise UsageError(f"--name of {len(name)} characters: give 255 at most")
    key = Settings.load().api_key if as_given else keys.new_key()
    if not keys.is_well_formed(key):
        raise UsageError(
            "ALEXQ_API_KEY is not an API key: `alexq secrets FOLDER` writes one to alexq_api_key"
        )
    sha256 = keys.hash_of(key)
    with opened(data_dir) as (database, _), database.begin() as connection:
        if as_given and (known := api_keys.valid(connection, sha256)):
            typer.echo(f"key {known.id} of tenant {known.tenant} is there already", err=True)
            return
        key_id = api_keys.add(
            connection,
            tenant=tenant,
            name=name,
            scopes=scope or DEFAULT_SCOPES,
            sha256=sha256,
            queue=queue,
            reuse=reuse,
        )
    if as_given:
        typer.echo(f"key {key_id} of tenant {tenant} is stored", err=True)
    elif as_json:
        typer.echo(json.dumps({"id": str(key_id), "tenant": tenant, "key": key}))
    else:
        typer.echo(key)
        typer.echo(f"key {key_id} of tenant {tenant}: keep it, it is not shown again", err=True)


def list_keys(as_json: Json = False, data_dir: DataDir = None) -> None:
    """List the API keys, revoked ones too; never the secrets."""
    import json

    from alexq.cli.database import opened
    from alexq.cli.output import printable
    from alexq_schema.db import api_keys

    with opened(data_dir) as (database, _), database.read() as connection:
        known = api_keys.everyone(connection)
    for key in known:
        scopes = sorted(key.scopes)
        if as_json:
            row = {
                "id": str(key.id),
                "tenant": key.tenant,
                "name": key.name,
                "scopes": scopes,
                "queue": key.queue,
                "reuse": key.reuse,
                "created_at": key.created_at.isoformat(),
                "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
            }
            typer.echo(json.dumps(row))
        else:
            allowed = [*scopes, *["reuse"] * key.reuse]
            state = "revoked" if key.revoked_at else ",".join(allowed)
            queue = f"  queue {key.queue}" if key.queue else ""
            typer.echo(f"{key.id}  {key.tenant}  {state}{queue}  {printable(key.name)}")


def revoke(
    key_id: Annotated[UUID, typer.Argument(metavar="ID", show_default=False)], data_dir: DataDir = None
) -> None:
    """End an API key; gateways refuse it within five seconds."""
    from alexq.cli.database import opened
    from alexq_schema.db import api_keys
    from alexq_schema.errors import UsageError

    with opened(data_dir) as (database, _), database.begin() as connection:
        is_known = api_keys.revoke(connection, key_id)
    if not is_known:
        raise UsageError(f"there is no API key {key_id}: `alexq keys list` shows them")
    typer.echo(f"{key_id}  revoked")
