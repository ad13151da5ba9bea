"""``/metrics`` of the gateway, as Prometheus reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from alexq_schema.keys import Scope
from alexq_schema.settings import Settings
from tests.helpers.gateway import JPEG, GatewayProcess, make_key, running_gateway
from tests.helpers.photos import encode, photo_crops

ROOT = Path(__file__).parents[2]
PHOTOGRAPH = encode(photo_crops(1)[0])


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the database."""
    return sqlite_url


@pytest.fixture
def gateway(settings: Settings, tmp_path: Path) -> Iterator[GatewayProcess]:
    settings = settings.model_copy(update={"gateway_rate": "6/hour"})
    with running_gateway(settings, tmp_path / "gateway.log") as gateway:
        yield gateway


def numbers(text: str) -> dict[tuple[str, str], float]:
    """Return the value of each of our samples, by name and label values."""
    return {
        (sample.name.removeprefix("alexq_gateway_"), " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if family.name.startswith("alexq_")
    }


def test_requests_and_images_are_counted_without_telling_whose(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        client.get("/metrics")
        first = client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG).json()["job_id"]
        client.post("/v1/jobs", content=b"no picture", headers=JPEG)
        files = [("images", ("a.jpg", PHOTOGRAPH)), ("images", ("b.jpg", b"no picture"))]
        client.post("/v1/submissions", files=files * 2, params={"rejected": "skip"})
        for _ in range(4):
            client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG)
        client.get(f"/v1/jobs/{first}")
        client.get(f"/v1/jobs/{uuid4()}")
        client.get(f"/nothing/{first}")
        client.request("PATCH", f"/v1/jobs/{first}")
        client.request("BREW", "/")
        answer = client.get("/metrics")
    told = numbers(answer.text)

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert told["requests_total", "POST submit_image 202"] == 3
    assert told["requests_total", "POST submit_image 415"] == 1
    assert told["requests_total", "POST submit_image 429"] == 2
    assert told["requests_total", "POST submit_images 202"] == 1
    assert told["requests_total", "GET show_job 200"] == 1
    assert told["requests_total", "GET show_job 404"] == 1
    assert told["requests_total", "GET none 404"] == 1
    assert told["request_duration_seconds_count", "submit_image"] == 6
    assert told["request_duration_seconds_bucket", "60.0 submit_image"] == 6
    assert told["received_bytes_total", "submit_image"] >= 3 * len(PHOTOGRAPH) + len(b"no picture")
    assert told["images_accepted_total", "interactive"] == 3
    assert told["images_accepted_total", "bulk"] == 2
    assert told["images_refused_total", "image_type_unsupported"] == 3
    assert told["throttled_total", "rate_limited"] == 2
    assert told["requests_in_flight", ""] == 1  # this one
    assert first not in answer.text
    assert "/v1/" not in answer.text


def test_metrics_are_those_that_are_documented(gateway: GatewayProcess) -> None:
    with gateway.client() as client:
        client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG)
        text = client.get("/metrics").text
    told = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
        if not family.name.endswith("_created")
    }
    page = (ROOT / "docs/howto/http.md").read_text()
    documented = set(re.findall(r"^\| `(alexq_gateway_\w+)`", page, re.MULTILINE))

    assert {name for name in told if name.startswith("alexq_")} == documented
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} <= told


def test_the_format_is_what_the_reader_asks_for(gateway: GatewayProcess) -> None:
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    with gateway.client() as client:
        answer = client.get("/metrics", headers=accept)

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert [*openmetrics.text_string_to_metric_families(answer.text)]


def test_where_there_are_keys_it_takes_one_that_may_read(gateway: GatewayProcess, settings: Settings) -> None:
    reads, submits = (make_key(settings, "monitoring", scope) for scope in (Scope.READ, Scope.SUBMIT))

    def status(key: str | None) -> int:
        with gateway.client(key) as client:
            return client.get("/metrics").status_code

    assert [status(None), status(submits), status(reads)] == [401, 403, 200]


def test_prometheus_own_checker_finds_nothing(gateway: GatewayProcess) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH")
    with gateway.client() as client:
        client.post("/v1/jobs", content=PHOTOGRAPH, headers=JPEG)
        text = client.get("/metrics").text
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=200, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
