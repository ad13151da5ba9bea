"""An internet in which every test decides who is where."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from alexq_schema.outward import Outward
from tests.helpers.outside import Inside, Internet


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    """Names and connections under the test's control."""
    internet = Internet(monkeypatch)
    internet.names["localhost"] = [["127.0.0.1", "::1"]]
    internet.names["x.localhost"] = [["127.0.0.1"]]
    return internet


@pytest.fixture
def inside() -> Iterator[Inside]:
    """Listeners that nobody may connect to."""
    inside = Inside()
    yield inside
    inside.close()


@pytest.fixture(scope="module")
def outward() -> Iterator[Outward]:
    """May go to any public host."""
    outward = Outward(hosts=None, timeout_s=60)
    yield outward
    outward.close()
