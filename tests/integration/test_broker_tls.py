"""Everything goes over TLS to the broker, both sides with certificates of an authority of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from alexq import doctor
from alexq.stack.broker import require_answer
from alexq_producer import Producer
from alexq_producer.gateway.rate import Rate, parse_rate
from alexq_schema.broker import connect
from alexq_schema.errors import BrokerUnavailableError, RateLimitedError
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from tests.helpers.gateway import running_gateway
from tests.helpers.monitor import running_monitor
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess
from tests.helpers.tls import Authority, tls_before


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls_url(broker_url: str, authority: Authority) -> Iterator[str]:
    """The broker behind TLS, without a query."""
    parts = urlsplit(broker_url)
    assert parts.port is not None
    with tls_before(parts.port, authority) as port:
        yield f"rediss://:{parts.password}@127.0.0.1:{port}/0"


@pytest.fixture
def with_certificates(tls_url: str, authority: Authority) -> str:
    client = authority.issue("client")
    files = {
        "ssl_ca_certs": authority.certificate,
        "ssl_certfile": client.certificate,
        "ssl_keyfile": client.key,
    }
    return f"{tls_url}?{urlencode(files)}"


@pytest.fixture
def settings(settings: Settings, with_certificates: str) -> Settings:
    return settings.model_copy(update={"broker_url": with_certificates})


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


def test_every_process_reaches_the_broker_over_tls(
    settings: Settings, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    photo = encode(photo_crops(1)[0], "JPEG")
    worker = start_worker()
    with Producer(settings) as producer:
        jobs = producer.submit([photo] * 20).wait(150)
    with running_gateway(settings, tmp_path / "gateway.log") as gateway, gateway.client() as client:
        ready = client.get("/readyz").json()
        headers = {"Content-Type": "image/jpeg", "Prefer": "wait=60"}
        answered = client.post("/v1/jobs", content=photo, headers=headers).json()
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        pages = [monitor.get(path).status_code for path in ("/overview", "/broker", "/workers?json=1")]

    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert ready["broker"] == "ok"
    assert answered["state"] == "succeeded"
    assert pages == [200, 200, 200]
    assert doctor.check_broker(settings).ok
    assert worker.terminate() == 0


def test_the_gateways_rate_is_kept_over_tls(with_certificates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexq_producer.gateway.rate.TIMEOUT_S", 30.0)
    rate = Rate(parse_rate("1/minute"), with_certificates)
    rate.enter("tenant")
    with pytest.raises(RateLimitedError):
        rate.enter("tenant")
    rate.close()


def test_a_client_without_a_certificate_is_refused(tls_url: str, authority: Authority) -> None:
    with pytest.raises(BrokerUnavailableError):
        require_answer(f"{tls_url}?ssl_ca_certs={authority.certificate}")


def test_a_server_of_another_authority_is_refused(with_certificates: str, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    elsewhere = with_certificates.replace("authority.pem", other.certificate.name)
    with pytest.raises(BrokerUnavailableError, match=r"(?i)certificate"):
        require_answer(elsewhere)
    assert connect(with_certificates).ping()
