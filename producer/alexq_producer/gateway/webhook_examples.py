"""Examples of the operations on webhooks; :mod:`examples` puts them into the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

from alexq_producer.gateway.webhook_resources import (
    Delivery,
    DeliveryPage,
    Replayed,
    Secret,
    Webhook,
    WebhookPage,
)
from alexq_schema.errors import AlexqError, ForbiddenError, RequestError, WebhookNotFoundError
from alexq_schema.webhooks import DeliveryState, Event

WEBHOOK: Final = "019ab5f0-11c2-7e55-b3d4-7a1f0c9e8d21"
_DELIVERY: Final = "019ab5f2-7d02-7a90-8c11-5e6f7a8b9c0d"
_URL: Final = "https://shop.example/alexq"
_AT: Final = datetime(2026, 11, 24, 12, 0, 6, tzinfo=UTC)

_WEBHOOK: Final = Webhook(
    webhook_id=UUID(WEBHOOK),
    url=_URL,
    created_at=_AT - timedelta(days=3),
    disabled_at=None,
    disabled_reason=None,
)
_SECRET: Final = Secret(webhook_id=UUID(WEBHOOK), secret="whsec_…")  # noqa: S106 - of nobody
_TOLD: Final = Delivery(
    delivery_id=UUID(_DELIVERY),
    submission_id=UUID("019ab5f2-7c30-7b11-8f2e-91c3a4d7e002"),
    event=Event.SUBMISSION_FINISHED,
    state=DeliveryState.DELIVERED,
    attempts=1,
    created_at=_AT,
    last_attempt_at=_AT + timedelta(milliseconds=240),
    ended_at=_AT + timedelta(milliseconds=310),
    last_status=204,
    last_error=None,
)

PARAMETERS: Final[dict[str, Any]] = {"webhook": WEBHOOK, "webhook_id": WEBHOOK}

BODIES: Final[dict[str, dict[str, Any]]] = {
    "add_webhook": {"application/json": {"url": _URL}},
    "replay_deliveries": {"application/json": {"since": "2026-11-24T00:00:00Z"}},
}

ANSWERS: Final[dict[str, dict[str, BaseModel | str]]] = {
    "add_webhook": {"201": _SECRET},
    "list_webhooks": {"200": WebhookPage(webhooks=[_WEBHOOK], next_cursor=None)},
    "show_webhook": {"200": _WEBHOOK},
    "remove_webhook": {},
    "rotate_secret": {"200": _SECRET},
    "enable_webhook": {"200": _WEBHOOK},
    "list_deliveries": {"200": DeliveryPage(deliveries=[_TOLD], next_cursor=UUID(_DELIVERY).hex)},
    "replay_deliveries": {"202": Replayed(replayed=12)},
}

_ABSENT: Final = WebhookNotFoundError(f"there is no webhook {WEBHOOK}")

ERRORS: Final[dict[str, AlexqError]] = {
    "add_webhook": ForbiddenError("this needs an API key with the scope admin; this one has read, submit"),
    "list_webhooks": RequestError("cursor='2': give a next_cursor, as it came"),
    "show_webhook": _ABSENT,
    "remove_webhook": _ABSENT,
    "rotate_secret": _ABSENT,
    "enable_webhook": _ABSENT,
    "list_deliveries": _ABSENT,
    "replay_deliveries": _ABSENT,
}
