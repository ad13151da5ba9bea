"""The gateway's rate while Redis, in which it is counted, is away."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from limits import RateLimitItem

from alexq.stack.broker import EmbeddedBroker
from alexq_producer.gateway.rate import PAUSE_S, Rate, parse_rate
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, GatewayProcess, running_gateway
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import stopped_server

PHOTOGRAPH = encode(photo_crops(1)[0])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the database."""
    return sqlite_url


def post_one(gateway: GatewayProcess) -> int:
    with gateway.client() as client:
        return client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG).status_code


def test_a_rate_lets_everyone_in_while_redis_is_away(settings: Settings, tmp_path: Path) -> None:
    """Frozen, then killed, then back: then it counts again."""
    server = EmbeddedBroker.configure(tmp_path / "broker")
    process = subprocess.Popen(server.argv, stdout=subprocess.DEVNULL)
    settings = settings.model_copy(update={"gateway_rate": "3/hour", "broker_url": server.url})
    log = tmp_path / "gateway.log"
    try:
        eventually(server.is_ready, what="the broker answers")
        with running_gateway(settings, log) as gateway, ThreadPoolExecutor(20) as threads:
            assert [post_one(gateway) for _ in range(3)] == [202] * 3
            with stopped_server(server.url):
                assert list(threads.map(lambda _: post_one(gateway), range(60))) == [202] * 60
            process.kill()
            process.wait(150)
            assert list(threads.map(lambda _: post_one(gateway), range(60))) == [202] * 60
            assert log.read_text().count("ALEXQ_GATEWAY_RATE is not enforced") == 1
            process = subprocess.Popen(server.argv, stdout=subprocess.DEVNULL)
            eventually(lambda: post_one(gateway) == 429, 150, every_s=0.5, what="it counts again")
    finally:
        process.kill()
        process.wait(150)


def test_who_asks_a_frozen_redis_is_one_at_a_time(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first find out together; of those who come later one asks, when the pause is over."""
    monkeypatch.setattr("alexq_producer.gateway.rate.TIMEOUT_S", 1.0)
    now_s = 1_000.0
    asked: list[str] = []
    rate = Rate(parse_rate("100/hour"), broker_url, clock=lambda: now_s)
    hit = rate._counter.hit

    def counted(limit: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        asked.append(identifiers[0])
        return hit(limit, *identifiers, cost=cost)

    rate._counter.hit = counted  # type: ignore[method-assign]
    with stopped_server(broker_url), ThreadPoolExecutor(20) as threads:
        rate.enter("the first")
        list(threads.map(rate.enter, ["in the pause"] * 100))
        now_s += PAUSE_S
        list(threads.map(rate.enter, ["after it"] * 100))
    assert asked == ["the first", "after it"]

    now_s += PAUSE_S
    rate.enter("when it is back")
    rate.enter("and again")
    rate.close()
    assert asked[2:] == ["when it is back", "and again"]
