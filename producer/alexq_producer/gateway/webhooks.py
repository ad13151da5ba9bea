"""``/v1/webhooks``: register where to be told, see what was delivered, deliver it again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from alexq_producer.gateway.auth import Administering, Caller, Reading
from alexq_producer.gateway.bodies import Body
from alexq_producer.gateway.core import Core
from alexq_producer.gateway.headers import cursor_of, read_cursor
from alexq_producer.gateway.state import shared
from alexq_producer.gateway.webhook_resources import (
    Delivery,
    DeliveryPage,
    NewWebhook,
    Replay,
    Replayed,
    Secret,
    Webhook,
    WebhookPage,
)
from alexq_schema.db import deliveries, delivery_log, webhooks
from alexq_schema.db.delivery_log import DeliveryRow
from alexq_schema.db.webhooks import KnownWebhook
from alexq_schema.errors import RequestTooLargeError, WebhookNotFoundError
from alexq_schema.webhooks import DeliveryState

MAX_BODY_BYTES: Final = 2**18

router = APIRouter(tags=["webhooks"])

Model = TypeVar("Model", bound=BaseModel)
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=500)]


def _body(model: type[BaseModel], *, required: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": required, "content": content}}


async def _read(request: Request, model: type[Model]) -> Model:
    """Return the body, which may be empty where all of the model is optional."""

    def too_large() -> RequestTooLargeError:
        return RequestTooLargeError(f"the body has more than {MAX_BODY_BYTES:,} bytes")

    core, *_ = shared(request)
    with closing(await Body(request, core).whole(MAX_BODY_BYTES, too_large)) as file:
        try:
            return model.model_validate_json(file.read() or b"{}")
        except ValidationError as error:
            problems = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
            raise RequestValidationError(problems) from error


def _absent(webhook_id: UUID) -> WebhookNotFoundError:
    return WebhookNotFoundError(f"there is no webhook {webhook_id}")


def _one(core: Core, caller: Caller, webhook_id: UUID) -> KnownWebhook:
    with core.database.read() as connection:
        known = webhooks.find(connection, caller.tenant, webhook_id)
    if known is None:
        raise _absent(webhook_id)
    return known


@router.post(
    "/v1/webhooks",
    status_code=HTTPStatus.CREATED,
    operation_id="add_webhook",
    summary="Register a webhook",
    openapi_extra=_body(NewWebhook, required=True),
    responses={
        HTTPStatus.CREATED: {
            "links": {
                name: {"operationId": name, "parameters": {"webhook_id": "$response.body#/webhook_id"}}
                for name in ("show_webhook", "rotate_secret", "list_deliveries", "remove_webhook")
            }
        }
    },
)
async def add_webhook(request: Request, response: Response, caller: Administering) -> Secret:
    """Register a URL that is told of jobs and submissions that name it; returns its secret, this once."""
    core, *_ = shared(request)
    new = await _read(request, NewWebhook)

    def add() -> Secret:
        core.outward.check(new.url)
        with core.database.begin() as connection:
            webhook_id, secret = webhooks.add(connection, tenant=caller.tenant, url=new.url)
        return Secret(webhook_id=webhook_id, secret=secret)

    added = await core.call(add)
    response.headers["Location"] = f"/v1/webhooks/{added.webhook_id}"
    return added


@router.get("/v1/webhooks", operation_id="list_webhooks", summary="List webhooks")
async def list_webhooks(
    request: Request, caller: Reading, cursor: Cursor = None, limit: Limit = 50
) -> WebhookPage:
    """List webhooks, newest first, a page at a time; never their secrets."""
    core, *_ = shared(request)
    after = read_cursor(cursor)

    def read() -> Sequence[KnownWebhook]:
        with core.database.read() as connection:
            return webhooks.page(connection, caller.tenant, after=after, limit=limit + 1)

    found = await core.call(read)
    following = cursor_of(found[limit - 1].id) if len(found) > limit else None
    return WebhookPage(webhooks=[Webhook.of(one) for one in found[:limit]], next_cursor=following)


@router.get("/v1/webhooks/{webhook_id}", operation_id="show_webhook", summary="See a webhook")
async def show_webhook(webhook_id: UUID, request: Request, caller: Reading) -> Webhook:
    """Return a webhook, without its secret."""
    core, *_ = shared(request)
    return Webhook.of(await core.call(_one, core, caller, webhook_id))


@router.delete(
    "/v1/webhooks/{webhook_id}",
    status_code=HTTPStatus.NO_CONTENT,
    operation_id="remove_webhook",
    summary="Remove a webhook",
)
async def remove_webhook(webhook_id: UUID, request: Request, caller: Administering) -> None:
    """Remove a webhook with its deliveries, pending ones too."""
    core, *_ = shared(request)

    def remove() -> None:
        with core.database.begin() as connection:
            if not webhooks.remove(connection, caller.tenant, webhook_id):
                raise _absent(webhook_id)

    await core.call(remove)


@router.post(
    "/v1/webhooks/{webhook_id}/rotate", operation_id="rotate_secret", summary="Give a webhook a new secret"
)
async def rotate_secret(webhook_id: UUID, request: Request, caller: Administering) -> Secret:
    """Return a new secret, this once. The one before signs beside it for 24 hours more."""
    core, *_ = shared(request)

    def rotate() -> Secret:
        with core.database.begin() as connection:
            secret = webhooks.rotate(connection, caller.tenant, webhook_id)
        if secret is None:
            raise _absent(webhook_id)
        return Secret(webhook_id=webhook_id, secret=secret)

    return await core.call(rotate)


@router.post("/v1/webhooks/{webhook_id}/enable", operation_id="enable_webhook", summary="Enable a webhook")
async def enable_webhook(webhook_id: UUID, request: Request, caller: Administering) -> Webhook:
    """Deliver to a webhook again that answered 410 Gone; what is pending for it is due at once."""
    core, *_ = shared(request)

    def enable() -> KnownWebhook:
        with core.database.begin() as connection:
            if not webhooks.enable(connection, caller.tenant, webhook_id):
                raise _absent(webhook_id)
            deliveries.hurry(connection, webhook_id)
        return _one(core, caller, webhook_id)

    return Webhook.of(await core.call(enable))


@router.get("/v1/webhooks/{webhook_id}/deliveries", operation_id="list_deliveries", summary="List deliveries")
async def list_deliveries(
    webhook_id: UUID,
    request: Request,
    caller: Reading,
    state: DeliveryState | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> DeliveryPage:
    """List a webhook's deliveries, newest first, a page at a time, with what came of the last attempt."""
    core, *_ = shared(request)
    after = read_cursor(cursor)

    def read() -> Sequence[DeliveryRow]:
        _one(core, caller, webhook_id)
        with core.database.read() as connection:
            return delivery_log.page(
                connection, caller.tenant, webhook_id, state=state, after=after, limit=limit + 1
            )

    found = await core.call(read)
    following = cursor_of(found[limit - 1].id) if len(found) > limit else None
    return DeliveryPage(deliveries=[Delivery.of(row) for row in found[:limit]], next_cursor=following)


@router.post(
    "/v1/webhooks/{webhook_id}/replay",
    status_code=HTTPStatus.ACCEPTED,
    operation_id="replay_deliveries",
    summary="Deliver again",
    openapi_extra=_body(Replay, required=False),
)
async def replay_deliveries(webhook_id: UUID, request: Request, caller: Administering) -> Replayed:
    """Make ended deliveries again, with fresh attempts: `delivery_ids`, all `since` then, or what failed."""
    core, *_ = shared(request)
    wanted = await _read(request, Replay)

    def replay() -> int:
        _one(core, caller, webhook_id)
        return delivery_log.replay_all(
            core.database, caller.tenant, webhook_id, delivery_ids=wanted.delivery_ids, since=wanted.since
        )

    return Replayed(replayed=await core.call(replay))
