"""Webhooks: what is told of, how far a delivery is, and the secrets that sign.

Source of the secrets' form: Standard Webhooks (``whsec_`` + base64 of 24 to 64 random bytes).
"""

from __future__ import annotations

import base64
import secrets
from enum import StrEnum

_SECRET_BYTES = 32

ROTATION_S = 86_400.0
"""How long the secret before goes on signing beside a new one."""


class Event(StrEnum):
    """What a delivery tells of."""

    JOB_FINISHED = "job.finished"
    """The one job of ``POST /v1/jobs`` has ended, in whichever state."""
    SUBMISSION_FINISHED = "submission.finished"
    """All jobs of ``POST /v1/submissions`` have ended."""


class DeliveryState(StrEnum):
    """How far a delivery is."""

    PENDING = "pending"
    """Waits for its jobs, for its next attempt, or for its webhook to be enabled again."""
    DELIVERED = "delivered"
    FAILED = "failed"
    """The last attempt failed; kept, to be replayed."""


def new_secret() -> str:
    """Return a new random secret."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"
