"""Commands about webhooks: ``webhooks add|list|remove|rotate|enable|deliveries|replay|worker``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from alexq.cli.options import DataDir, Json, given
from alexq_schema.webhooks import DeliveryState

if TYPE_CHECKING:
    from sqlalchemy import Connection

WebhookId = Annotated[UUID, typer.Argument(metavar="ID", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(
        help="Be told over HTTP when jobs have ended: where, what came of it, again.", no_args_is_help=True
    )
    group.command()(add)
    group.command("list")(list_webhooks)
    group.command()(remove)
    group.command()(rotate)
    group.command()(enable)
    group.command()(deliveries)
    group.command()(replay)
    group.command()(worker)
    app.add_typer(group, name="webhooks")


def add(
    url: Annotated[str, typer.Argument(help="Where to be told.", show_default=False)],
    tenant: Annotated[
        str | None,
        typer.Option(help="Whose it is, as in `alexq keys create`; none for a gateway without keys."),
    ] = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Register a webhook and show its secret, this once."""
    from alexq.cli.database import opened
    from alexq_schema.db import webhooks
    from alexq_schema.errors import UsageError
    from alexq_schema.keys import is_tenant
    from alexq_schema.outward import Outward

    if tenant is not None and not is_tenant(tenant):
        raise UsageError(f"--tenant {tenant!r}: give 1 to 64 of letters, digits, . _ -")
    if len(url) > webhooks.MAX_URL_LENGTH:
        raise UsageError(f"a URL of {len(url)} characters: give {webhooks.MAX_URL_LENGTH} at most")
    with opened(data_dir) as (database, settings):
        timeout_s, allow_private = settings.publish_timeout_s, settings.webhook_private
        with closing(Outward(hosts=None, timeout_s=timeout_s, allow_private=allow_private)) as outward:
            outward.check(url)
        with database.begin() as connection:
            webhook_id, secret = webhooks.add(connection, tenant=tenant, url=url)
    _show_secret(webhook_id, secret, as_json=as_json)


def list_webhooks(as_json: Json = False, data_dir: DataDir = None) -> None:
    """List the webhooks of every tenant, newest first; never the secrets."""
    from alexq.cli.database import opened
    from alexq.cli.output import printable
    from alexq_schema.db import webhooks

    with opened(data_dir) as (database, _), database.read() as connection:
        known = webhooks.page(connection, None, after=None, limit=None)
    for one in known:
        if as_json:
            _print_json(
                webhook_id=one.id,
                tenant=one.tenant,
                url=one.url,
                created_at=one.created_at,
                disabled_at=one.disabled_at,
                disabled_reason=one.disabled_reason,
            )
        else:
            state = f"disabled: {one.disabled_reason}" if one.disabled_at else "enabled"
            typer.echo(printable(f"{one.id}  {one.tenant or '-'}  {one.url}  {state}"))


def remove(webhook_id: WebhookId, data_dir: DataDir = None) -> None:
    """Remove a webhook with its deliveries, pending ones too."""
    from alexq_schema.db import webhooks

    with _changing(webhook_id, data_dir) as connection:
        webhooks.remove(connection, None, webhook_id)
    typer.echo(f"{webhook_id}  removed")


def rotate(webhook_id: WebhookId, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Give a webhook a new secret and show it, this once; the one before signs on for 24 hours."""
    from alexq_schema.db import webhooks

    with _changing(webhook_id, data_dir) as connection:
        secret = webhooks.rotate(connection, None, webhook_id)
    assert secret is not None
    _show_secret(webhook_id, secret, as_json=as_json)


def enable(webhook_id: WebhookId, data_dir: DataDir = None) -> None:
    """Deliver to a webhook again that answered 410 Gone; what is pending for it is due at once."""
    from alexq_schema.db import deliveries, webhooks

    with _changing(webhook_id, data_dir) as connection:
        webhooks.enable(connection, None, webhook_id)
        deliveries.hurry(connection, webhook_id)
    typer.echo(f"{webhook_id}  enabled")


def deliveries(
    webhook_id: WebhookId,
    state: Annotated[DeliveryState | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List a webhook's deliveries, newest first, with what came of the last attempt."""
    from dataclasses import asdict

    from alexq.cli.database import opened
    from alexq.cli.output import printable
    from alexq_schema.db import delivery_log

    with opened(data_dir) as (database, _), database.read() as connection:
        _require(connection, webhook_id)
        rows = delivery_log.page(connection, None, webhook_id, state=state, after=None, limit=limit)
    for row in rows:
        if as_json:
            told = asdict(row)
            _print_json(delivery_id=told.pop("id"), **told)
        else:
            line = f"{row.id}  {row.state}  {row.attempts} attempts  {row.event} {row.submission_id}"
            typer.echo(printable(f"{line}  {row.last_error or ''}".rstrip()))


def replay(
    webhook_id: WebhookId,
    delivery_ids: Annotated[
        list[UUID] | None, typer.Argument(metavar="[DELIVERY_ID...]", show_default=False)
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(help="All that were handed in since then, in UTC, and have ended.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make ended deliveries again, with fresh attempts: these, all since a time, or those that failed."""
    from alexq.cli.database import opened
    from alexq_schema.db import delivery_log
    from alexq_schema.errors import UsageError

    if delivery_ids and since:
        raise UsageError("give delivery ids or --since, not both")
    with opened(data_dir) as (database, _):
        with database.read() as connection:
            _require(connection, webhook_id)
        replayed = delivery_log.replay_all(
            database,
            None,
            webhook_id,
            delivery_ids=delivery_ids or None,
            since=since.replace(tzinfo=UTC) if since else None,
        )
    typer.echo(f"{replayed} deliveries are made again")


def worker(data_dir: DataDir = None) -> None:
    """Run a process that delivers webhooks, on the services of the settings or of the running stack."""
    from alexq.cli.stack import become_connected
    from alexq.stack.environment import require_gateway

    require_gateway()
    become_connected("alexq_producer.webhooks", given(data_dir=data_dir))


@contextmanager
def _changing(webhook_id: UUID, data_dir: DataDir) -> Iterator[Connection]:
    from alexq.cli.database import opened

    with opened(data_dir) as (database, _), database.begin() as connection:
        _require(connection, webhook_id)
        yield connection


def _require(connection: Connection, webhook_id: UUID) -> None:
    from alexq_schema.db import webhooks
    from alexq_schema.errors import WebhookNotFoundError

    if webhooks.find(connection, None, webhook_id) is None:
        raise WebhookNotFoundError(f"there is no webhook {webhook_id}: `alexq webhooks list` shows them")


def _show_secret(webhook_id: UUID, secret: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(webhook_id=webhook_id, secret=secret)
    else:
        typer.echo(secret)
        typer.echo(f"secret of webhook {webhook_id}: keep it, it is not shown again", err=True)


def _print_json(**values: Any) -> None:
    def plain(value: object) -> str:
        return value.isoformat() if isinstance(value, datetime) else str(value)

    typer.echo(json.dumps(values, default=plain, ensure_ascii=False))
