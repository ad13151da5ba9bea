"""Our pages beside Flower's: what they show, on a real broker and both databases."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import select, update

from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job, ModelVersion, Submission, Worker
from alexq_schema.images import open_image_store
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.html import Document, parse
from tests.helpers.models import BASE
from tests.helpers.monitor import MonitorProcess, running_monitor
from tests.helpers.seeded import Seeded, seed

PAGES = ("/overview", "/results", "/submissions", "/batches", "/dead", "/models")
UNKNOWN_ID = "019a0000-0000-7000-8000-000000000001"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Of the workers without a process, only the one that is to be silent is."""
    return settings.model_copy(update={"silent_after_s": 300.0})


@pytest.fixture
def seeded(database: Database, settings: Settings) -> Seeded:
    images = open_image_store(settings.images_url)
    return seed(database, images, succeeded=400, failed=30, dead=8, waiting=40)


@pytest.fixture
def monitor(settings: Settings, tmp_path: Path) -> Iterator[MonitorProcess]:
    with running_monitor(settings, tmp_path / "monitor.log") as monitor:
        yield monitor


def page(monitor: MonitorProcess, path: str, status: int = 200) -> Document:
    answer = monitor.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    return parse(answer.text)


def test_every_page_shows_a_busy_system_in_flowers_look(seeded: Seeded, monitor: MonitorProcess) -> None:
    job_id, dead_id = seeded.job_ids["succeeded"][-1], seeded.job_ids["dead"][-1]
    submission_id = seeded.submission_ids[-1]
    shown = {path: page(monitor, path) for path in PAGES}
    for path, document in shown.items():
        (current,) = document.all("a", **{"aria-current": "page", "class_": "nav-link"})
        assert current.attributes["href"] == path
        assert {"/workers", "/tasks", "/broker"} <= {a.attributes["href"] for a in document.all("a")}
        assert document.all("main", class_="app-content")

    (waiting,) = [one for one in shown["/overview"].all("article") if "Waiting" in one.text]
    assert " ".join(waiting.text.split()).startswith("Waiting 40 5 interactive · 35 bulk · oldest ")
    assert "gpu-1:4100" in shown["/overview"].cells()
    assert {"cuda:0 NVIDIA L4", "1.3 of 24.1 GB"} <= set(shown["/overview"].cells())
    for said in ("Failed in the last hour", "In · done a second", "in workers' hands · batches of", "% full"):
        assert said in " ".join(shown["/overview"].text.split()), said
    assert "8 jobs are dead" in shown["/overview"].text
    assert len(shown["/results"].all("tr")) == 51
    assert shown["/dead"].cells()[0] == "image_lost"
    assert len(shown["/dead"].all("a", class_="alexq-code")) == 2
    assert any(cell.startswith("100.0 %") for cell in shown["/submissions"].cells())
    assert "61–64" in shown["/batches"].cells()
    assert "gpu-1:4100" in shown["/batches"].cells()
    assert BASE in shown["/models"].cells()

    job = page(monitor, f"/results/{job_id}")
    assert str(job_id) in job.text
    assert len([cell for cell in job.cells() if cell.endswith(" %")]) == 5
    assert "1.4 s" in job.text
    died = page(monitor, f"/results/{dead_id}")
    assert died.cells().count("errored") + died.cells().count("crashed") == 3
    assert "in a worker's hands" in died.text
    assert "decoded" in job.text
    assert "decoded" not in died.text
    submission = page(monitor, f"/submissions/{submission_id}")
    assert "40" in submission.cells()


def test_queues_are_told_apart_and_one_without_a_worker_is_named(
    seeded: Seeded, monitor: MonitorProcess, database: Database
) -> None:
    job_id = seeded.job_ids["queued"][-1]
    with database.begin() as connection:
        connection.execute(update(Job).where(Job.id == job_id).values(queue="vip"))
        connection.execute(
            update(Worker).where(Worker.host == "gpu-1", Worker.pid == 4101).values(queue="gold")
        )

    overview = page(monitor, "/overview")

    assert "1 job waits in the queue vip, which no worker serves." in overview.text
    assert "alexq worker --queue vip" in overview.text
    assert {"(default)", "gold", "vip"} <= set(overview.cells())
    assert "Queuevip" in page(monitor, f"/results/{job_id}").text


def test_the_history_of_the_week_is_read_soon_after_the_start(
    seeded: Seeded, monitor: MonitorProcess
) -> None:
    def said(name: str) -> str:
        charts = parse(monitor.get("/overview").text).all("svg", class_="alexq-chart")
        return next(
            one.attributes["aria-label"] for one in charts if one.attributes["aria-label"].startswith(name)
        )

    whole = "Last week: 478 came in, 400 succeeded, 38 failed"
    eventually(lambda: said("Last week") == whole, what=said("Last week"))
    assert "is still being read" not in monitor.get("/overview").text


def test_an_empty_system_says_on_every_page_what_to_do(monitor: MonitorProcess) -> None:
    shown = {path: page(monitor, path).text for path in PAGES}
    assert "No worker has ever reported." in shown["/overview"]
    assert "alexq worker" in shown["/overview"]
    for path in ("/results", "/submissions", "/batches"):
        assert "alexq submit PATH…" in shown[path]
    assert "No job is dead" in shown["/dead"]
    assert "alexq worker" in shown["/models"]


def test_results_are_filtered_and_paged(seeded: Seeded, monitor: MonitorProcess) -> None:
    failed = page(monitor, "/results?state=failed")
    names = [a.text for a in failed.all("a") if a.attributes["href"].startswith("/results/0")]
    assert len(names) == 30
    assert {cell for cell in failed.cells() if cell.startswith("image_")} == {
        "image_truncated", "image_corrupt", "image_type_unsupported",
    }  # fmt: skip

    first = page(monitor, "/results?label=tabby&min=50")
    (older,) = [a for a in first.all("a") if a.text == "Older"]
    assert "label=tabby" in older.attributes["href"]
    second = page(monitor, older.attributes["href"])
    seen = {a.attributes["href"] for a in first.all("a") if a.attributes["href"].startswith("/results/0")}
    more = {a.attributes["href"] for a in second.all("a") if a.attributes["href"].startswith("/results/0")}
    assert len(seen) == 50
    assert more
    assert not seen & more


def test_the_live_part_comes_alone(seeded: Seeded, monitor: MonitorProcess) -> None:
    def part_of(path: str) -> str:
        part = monitor.get(path, **{"X-Alexq-Fragment": "1"})
        assert part.status_code == 200
        assert '<nav class="app-navbar' not in part.text
        return part.text

    for path in PAGES:
        parse(part_of(path))
        if path not in ("/overview", "/dead"):  # these say how long ago
            # Another time if a worker has fallen silent between the two requests.
            eventually(lambda path=path: part_of(path).strip() in monitor.get(path).text)  # type: ignore[misc]


def test_an_export_is_all_that_the_filter_finds(
    database: Database, seeded: Seeded, monitor: MonitorProcess
) -> None:
    lines = monitor.get("/results/export.ndjson?state=succeeded").text.splitlines()
    jobs = [json.loads(line) for line in lines]
    assert [job["job_id"] for job in jobs] == [str(one) for one in reversed(seeded.job_ids["succeeded"])]
    assert jobs[0]["predictions"][0]["label"]

    answer = monitor.get("/results/export.csv?state=dead")
    assert answer.headers["content-disposition"] == 'attachment; filename="alexq-results.csv"'
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["job_id"] for row in table] == [str(one) for one in reversed(seeded.job_ids["dead"])]
    assert {row["state"] for row in table} == {"dead"}

    whole = monitor.get("/results/export.ndjson").text.splitlines()
    assert len(whole) == len(set(whole)) == 478


def test_what_was_submitted_stays_text(database: Database, seeded: Seeded, monitor: MonitorProcess) -> None:
    script, formula = "<script>alert(1)</script>\"'", '=HYPERLINK("http://x")'
    with database.begin() as connection:
        for job_id, label, source in (
            (seeded.job_ids["succeeded"][-1], script, script),
            (seeded.job_ids["succeeded"][-2], formula, "@SUM(A1)"),
        ):
            new = {
                "label": label,
                "source": source,
                "predictions": [{"index": 0, "label": label, "probability": 0.5}],
            }
            connection.execute(update(Job).where(Job.id == job_id).values(**new))
        dead = update(Job).where(Job.state == "dead")
        connection.execute(dead.values(error_code="<i>x</i>", error_detail=script, source=script))
        connection.execute(update(Submission).values(tenant=script))
        connection.execute(update(ModelVersion).values(name=script, version=script))
        refused = {"refused_model": script, "refused_reason": script}
        connection.execute(update(Worker).values(host=script, device=script, **refused))
        one = connection.execute(select(Worker.id).order_by(Worker.id)).scalars().first()
        unwell = update(Worker).where(Worker.id == one)
        connection.execute(unwell.values(unhealthy_at=Worker.started_at, unhealthy_reason=script))
    for path in (
        "/overview",
        "/results?state=succeeded",
        "/dead",
        "/batches",
        "/models",
        "/submissions",
        f"/results/{seeded.job_ids['succeeded'][-1]}",
        f"/results?label={script}&model={script}&tenant={script}&state={script}",
        f"/submissions/{seeded.submission_ids[-1]}",
    ):
        html = monitor.get(path).text
        assert "<script>alert" not in html, path
        assert "<i>x" not in html, path
        parse(html)
    for path in ("/results?state=succeeded", "/overview", "/models", "/batches"):
        assert script in page(monitor, path).text, path
    assert page(monitor, "/models").text.count(script) > 3

    rows = list(csv.reader(io.StringIO(monitor.get("/results/export.csv?state=succeeded").text)))
    assert rows[1][2] == script
    assert rows[2][2] == "'@SUM(A1)"
    assert rows[2][4] == f"'{formula}"
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)
    first = json.loads(monitor.get("/results/export.ndjson?state=succeeded").text.splitlines()[0])
    assert first["predictions"][0]["label"] == script


def test_a_picture_is_small_and_new_and_what_cannot_be_shown_has_a_placeholder(
    settings: Settings, seeded: Seeded, monitor: MonitorProcess
) -> None:
    job_id = seeded.job_ids["succeeded"][-1]
    answer = monitor.get(f"/results/{job_id}/image")
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (480, 360)

    for other in (seeded.job_ids["failed"][0], seeded.job_ids["queued"][0]):
        placeholder = monitor.get(f"/results/{other}/image")
        assert placeholder.status_code == 200
        assert placeholder.headers["content-type"] == "image/svg+xml"
    for file in Path(settings.data_dir / "images").rglob("*"):
        if file.is_file():
            file.unlink()
    assert monitor.get(f"/results/{job_id}/image").headers["content-type"] == "image/svg+xml"
    assert monitor.get(f"/results/{UNKNOWN_ID}/image").status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/results?state=done", 400, "is no state"),
        ("/results?min=many&after=soon", 400, "From, UTC: 'soon' is no time"),
        ("/results?submission=1", 400, "is not an id"),
        ("/results?older=x", 404, "is not an id"),
        ("/results/no-such-id", 404, "is not an id"),
        (f"/results/{UNKNOWN_ID}", 404, "There is no job"),
        (f"/submissions/{UNKNOWN_ID}", 404, "There is no submission"),
        ("/results?label=" + "x" * 2_000, 400, "longer than any label"),
        ("/results?label=" + "%00%0d%0a'; DROP TABLE jobs; --", 200, "No job matches"),
        ("/results?label=%ff%fe", 400, ""),
        ("/results/export.csv?state=done", 400, "is no state"),
        ("/dead?code=' OR 1=1 --", 200, "No job is dead of this"),
        ("/no-such-page", 404, "page not found"),
        ("/results/100%25", 404, "'100%' is not an id"),
        ("/static/%00", 404, "no page of that name"),
        ("/alexq-static/%00", 404, "no page of that name"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_gets_a_clear_page(
    sqlite_monitor: MonitorProcess, path: str, status: int, said: str
) -> None:
    answer = sqlite_monitor.get(path)
    assert answer.status_code == status, answer.text
    assert said in parse(answer.text).text
    assert status == 200 or 'id="alexq-status"' not in answer.text  # it asks for itself again for nothing
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("target", "header", "status"),
    [("/results?label=" + "x" * 10_000_000, "", 414), ("/results", "X-Long: " + "x" * 100_000, 431)],
    ids=["query", "header"],
)
def test_an_absurdly_long_request_gets_a_clear_page_and_nothing_else_happens(
    sqlite_monitor: MonitorProcess, target: str, header: str, status: int
) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", sqlite_monitor.settings.monitor_port), timeout=200) as raw:
        raw.sendall(request)
        with raw.makefile("rb") as answer:
            said = answer.read().decode()
    assert said.startswith(f"HTTP/1.1 {status} ")
    assert "Nothing was done." in said
    assert "xxx" not in said
    assert sqlite_monitor.get("/results").status_code == 200


@pytest.fixture(scope="module")
def sqlite_monitor(tmp_path_factory: pytest.TempPathFactory, broker_server: str) -> Iterator[MonitorProcess]:
    from alexq_schema import migrations

    folder = tmp_path_factory.mktemp("monitor")
    url = f"sqlite:///{folder / 'alexq.db'}"
    migrations.upgrade(url)
    settings = Settings.load(data_dir=folder, database_url=url, broker_url=broker_server)
    database = Database(url)
    seed(database, open_image_store(settings.images_url), succeeded=100, failed=10, dead=4, waiting=5)
    database.close()
    with running_monitor(settings, folder / "monitor.log") as monitor:
        yield monitor
