"""What handlers find on the application."""

from __future__ import annotations

from typing import NamedTuple

from fastapi import Request

from alexq_producer.gateway.core import Core
from alexq_producer.gateway.intake import Intake
from alexq_producer.gateway.repetition import KeysInUse


class Shared(NamedTuple):
    """Parts that every request shares."""

    core: Core
    intake: Intake
    keys: KeysInUse


def shared(request: Request) -> Shared:
    """Return the parts of the application that ``request`` came to."""
    parts: Shared = request.app.state.shared
    return parts
