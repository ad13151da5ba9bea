"""What operators rely on, against one real system: worker, gateway and dashboard that have classified images.

Every metric that alerts and dashboard ask for is there, with the labels they name; the document describes
each; and every line of every process's log is one JSON object.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from alexq.stack.environment import environment
from alexq_schema import migrations
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, running_gateway
from tests.helpers.metrics import Shape, documented, exposed
from tests.helpers.photos import encode, photo_crops
from tests.helpers.ports import free_port
from tests.helpers.processes import WorkerProcess
from tests.unit.test_alerts import needs_promtool, promtool

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboards/alexq.json"

ONLY_ON_CUDA = {"alexq_worker_device_memory_bytes"}
OF_PROMETHEUS = {"up": Shape("gauge", frozenset())}
GIVEN_BY_PROMETHEUS = {"job", "instance", "le"}

pytestmark = pytest.mark.slow


@dataclass
class Scene:
    """What three processes told before they were stopped."""

    texts: dict[str, str]
    """What each process answered to a scrape."""
    shapes: dict[str, dict[str, Shape]]
    """By process and metric."""
    values: dict[str, float]
    """Of the worker's samples, by name and label values."""
    logs: dict[str, list[dict[str, Any]]]
    """By process, each line parsed."""


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=300) as answer:
        return str(answer.read().decode())


def values_of(text: str) -> dict[str, float]:
    return {
        " ".join((sample.name, *filter(None, sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, broker_server: str, models_dir: Path) -> Scene:
    folder = tmp_path_factory.mktemp("observed")
    with redis.Redis.from_url(broker_server) as client:
        client.flushall()
    url = f"sqlite:///{folder / 'alexq.db'}"
    migrations.upgrade(url)
    settings = Settings.load(
        data_dir=folder,
        database_url=url,
        broker_url=broker_server,
        models_dir=models_dir,
        max_batch=8,
        log_format="json",
        metrics_port=free_port(),
        monitor_port=free_port(),
        gateway_rate="7/hour",
    )
    worker = WorkerProcess(settings, folder / "worker.log", sys.executable)
    with (folder / "monitor.log").open("wb") as log:
        argv = [sys.executable, "-m", "alexq_monitor"]
        monitor = subprocess.Popen(argv, env=environment(settings), stdout=log, stderr=log)
    try:
        with running_gateway(settings, folder / "gateway.log") as gateway:
            worker.wait_ready()
            submit(gateway.client())
            eventually(lambda: is_all_counted(settings.metrics_port), 150, what="the last job is counted")
            told = {
                "worker": scrape(settings.metrics_port),
                "monitor": eventually(lambda: seen_by(settings), 150, what="the dashboard sees the worker"),
                "gateway": scrape(gateway.settings.gateway_port),
            }
            stray(settings.monitor_port)
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.process.wait(150) == 0
        assert worker.terminate() == 0
        monitor.send_signal(signal.SIGTERM)
        assert monitor.wait(150) == 0
    finally:
        worker.kill()
        monitor.kill()
        monitor.wait(150)
    names = ("worker", "gateway", "monitor")
    logs = {name: (folder / f"{name}.log").read_text().splitlines() for name in names}
    return Scene(
        told,
        {name: exposed(text_string_to_metric_families(text), "") for name, text in told.items()},
        values_of(told["worker"]),
        {name: [json.loads(line) for line in lines] for name, lines in logs.items()},
    )


def is_all_counted(port: int) -> bool:
    """Return whether the worker has counted what :func:`submit` hands in, and has let go of it."""
    values = values_of(scrape(port))
    ended = [values.get(f"alexq_worker_jobs_total {state}") for state in ("succeeded", "failed")]
    return ended == [6, 1] and values["alexq_worker_jobs_in_flight bulk"] == 0


def submit(client: Any) -> None:
    """Hand in images of both lanes, one that is refused, one that fails and more than the rate allows."""
    photos = [encode(image) for image in photo_crops(4)]
    with client:
        for photo in photos[:2]:
            done = client.post("/v1/jobs", content=photo, headers={**JPEG, "Prefer": "wait=60"})
            assert done.json()["state"] == "succeeded", done.text
        half = photos[0][: len(photos[0]) // 2]
        assert client.post("/v1/jobs", content=half, headers=JPEG).status_code == 202
        assert client.post("/v1/jobs", content=b"no image", headers=JPEG).status_code == 415
        files = [("image", (f"{n}.jpg", photo, "image/jpeg")) for n, photo in enumerate(photos)]
        assert client.post("/v1/submissions", files=files).status_code == 202
        assert client.post("/v1/jobs", content=photos[0], headers=JPEG).status_code == 429


def stray(port: int) -> None:
    """Ask the dashboard for what it does not have, which its log tells."""
    for path in ("no-such-page", "results/nobody", "worker/%0a%1b[2J"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=300)


def seen_by(settings: Settings) -> str | None:
    """Return what the dashboard tells once it has seen the worker."""
    try:
        text = scrape(settings.monitor_port)
    except OSError:
        return None
    return text if values_of(text).get("alexq_workers alive") == 1 else None


def test_the_document_describes_what_a_real_system_tells_and_nothing_else(scene: Scene) -> None:
    told = scene.shapes["worker"] | scene.shapes["monitor"]
    ours = {name: shape for name, shape in told.items() if name.startswith("alexq_")}

    assert ours == {name: shape for name, shape in documented().items() if name not in ONLY_ON_CUDA}
    assert documented().keys() >= ONLY_ON_CUDA


def test_the_worker_counted_what_was_done(scene: Scene) -> None:
    values = scene.values
    assert values["alexq_worker_jobs_total succeeded"] == 6
    assert values["alexq_worker_jobs_total failed"] == 1
    assert values["alexq_worker_errors_total image_truncated"] == 1
    assert values["alexq_worker_job_seconds_count interactive"] == 3
    assert values["alexq_worker_job_seconds_count bulk"] == 4
    assert values["alexq_worker_batch_images_sum"] == 6
    assert 0 < values["alexq_worker_job_seconds_sum bulk"] < 4 * 120
    assert values["alexq_worker_jobs_in_flight bulk"] == 0


MATCHER = re.compile(r"""(\w+)\s*(?:=~|!~|!=|=)\s*"[^"]*\"""")
SELECTOR = re.compile(r"\b((?:alexq|process|flower)_\w+|up)\b(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric that an expression asks for, with the labels that it relies on."""
    grouped = {label.strip() for names in GROUPING.findall(expression) for label in names.split(",")}
    for name, matchers in SELECTOR.findall(expression):
        yield name, (set(MATCHER.findall(matchers)) | grouped) - GIVEN_BY_PROMETHEUS


def alert_expressions() -> list[str]:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def panel_expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", [])]


def missing(expressions: list[str], scene: Scene) -> list[str]:
    """Return what is asked for and is not told: a metric, or a label of one."""
    told: dict[str, Shape] = dict(OF_PROMETHEUS)
    for shapes in scene.shapes.values():
        told |= shapes
    told |= {name: documented()[name] for name in ONLY_ON_CUDA}
    found: list[str] = []
    for expression in expressions:
        names = list(asked(expression))
        assert names, f"asks for nothing: {expression}"
        for name, labels in names:
            family = re.sub(r"_(bucket|sum|count)$", "", name) if name not in told else name
            if family not in told:
                found.append(f"{name} in {expression}")
            elif lacking := labels - told[family].labels:
                found.append(f"{name}{lacking} in {expression}")
    return found


def test_alerts_and_dashboard_ask_for_what_there_is(scene: Scene) -> None:
    assert missing(alert_expressions(), scene) == []
    assert missing(panel_expressions(), scene) == []
    # It would be noticed.
    assert missing(["sum(alexq_no_such_total)"], scene)
    assert missing(['alexq_queue_jobs{colour="red"}'], scene)
    assert missing(["sum by (tenant) (rate(alexq_worker_jobs_total[5m]))"], scene)


def test_no_label_names_a_job_or_a_tenant(scene: Scene) -> None:
    labels = {
        label
        for shapes in scene.shapes.values()
        for name, shape in shapes.items()
        if name.startswith("alexq_")
        for label in shape.labels
    }
    assert not labels & {"job_id", "submission_id", "tenant", "path"}


@needs_promtool
@pytest.mark.parametrize("name", ["worker", "monitor"])
def test_prometheus_own_checker_finds_nothing(scene: Scene, name: str) -> None:
    done = promtool("check", "metrics", stdin=scene.texts[name])

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_promtool
def test_every_expression_of_the_dashboard_is_valid(tmp_path: Path) -> None:
    filled = [one.replace("$__rate_interval", "5m").replace("$worker", ".*") for one in panel_expressions()]
    rules = [{"record": f"panel_{number}", "expr": expression} for number, expression in enumerate(filled)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    done = promtool("check", "rules", "rules.yml", folder=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_well_made() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "worker"]
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == ["Flow", "Latency by stage", "Batches", "Workers", "Failures", "Gateway"]
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another"
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert {source["uid"] for source in sources} == {"${datasource}"}
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


def test_each_process_logs_json_and_says_what_a_line_is_about(scene: Scene) -> None:
    for name, lines in scene.logs.items():
        assert lines, name
        for line in lines:
            assert line.keys() >= {"timestamp", "level", "event", "logger"}
            assert line["process"] == name
    refused = [line for line in scene.logs["monitor"] if line["event"].startswith("404 ")]
    assert [line["level"] for line in refused] == ["warning"] * 2
    worker = scene.logs["worker"]
    assert len({line["worker_id"] for line in worker if line["event"] == "batch"}) == 1
    batches = [line for line in worker if line["event"] == "batch"]
    assert [line["batch_id"] for line in batches] == list(range(1, len(batches) + 1))
    assert sum(line["size"] + line["shared"] for line in batches) == 6
    [failed] = [line for line in worker if line["event"] == "failed"]
    assert failed["codes"] == {"image_truncated": 1}


def test_a_job_is_followed_from_its_acceptance_to_its_batch(scene: Scene) -> None:
    *singles, many = [line for line in scene.logs["gateway"] if line["event"] == "accepted"]
    batches = [line for line in scene.logs["worker"] if line["event"] == "batch"]
    [failed] = [line for line in scene.logs["worker"] if line["event"] == "failed"]

    assert [line["lane"] for line in (*singles, many)] == ["interactive"] * 3 + ["bulk"]
    for line in singles[:2]:
        [its] = [batch for batch in batches if line["job_id"] in batch["job_ids"]]
        assert its["submission_ids"] == [line["submission_id"]]
    assert failed["job_ids"] == [singles[2]["job_id"]]
    theirs = [batch for batch in batches if many["submission_id"] in batch["submission_ids"]]
    assert len({job for batch in theirs for job in batch["job_ids"]}) == many["jobs"] == 4
