"""``alexq submit`` and its kin, as a person and a program use them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import func, select

from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job as JobRow
from alexq_schema.job import JobState
from alexq_schema.settings import Settings
from alexq_schema.work import Crashed, Errored
from tests.helpers.eventually import eventually
from tests.helpers.gateway import running_gateway
from tests.helpers.nursery import run_alexq
from tests.helpers.photos import encode, hostile_images, photo_crops
from tests.helpers.processes import WorkerProcess
from tests.helpers.system import System

StartWorker = Callable[..., WorkerProcess]

MIB = 2**20


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here: what differs between them is tested elsewhere."""
    return sqlite_url


@pytest.fixture
def alexq(settings: Settings) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command against this test's services."""

    return partial(run_alexq, settings)


Run = Callable[..., subprocess.CompletedProcess[str]]


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    jobs = [json.loads(line) for line in done.stdout.splitlines()]
    return {Path(job["source"]).name: job for job in jobs}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three good photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, crop in enumerate(photo_crops(3)):
        (folder / f"good-{number}.jpg").write_bytes(encode(crop, "JPEG"))
    return folder


def test_bad_inputs_get_an_outcome_each_and_cost_the_good_ones_nothing(
    alexq: Run, start_worker: StartWorker, photos: Path
) -> None:
    worker = start_worker(decode_threads=2)  # each may hold a large picture, however many cores there are
    hostile = hostile_images()
    bad = {
        "text.jpg": ("rejected", "image_type_unsupported", b"this is a text file\n"),
        "empty.jpg": ("rejected", "image_empty", b""),
        "truncated.jpg": ("failed", "image_truncated", hostile["image_truncated"]),
        "bomb.png": ("failed", "image_too_many_pixels", hostile["image_too_many_pixels"]),
        "sixteen.png": ("failed", "image_mode_unsupported", hostile["image_mode_unsupported"]),
        "animated.gif": ("failed", "image_animated", hostile["image_animated"]),
    }
    for name, (_, _, data) in bad.items():
        (photos / name).write_bytes(data)
    warm = alexq("submit", str(photos / "good-0.jpg"), "--wait", "--json")
    assert warm.returncode == 0, warm.stderr
    before = worker.rss_bytes()

    done = alexq("submit", str(photos), str(photos / "missing.jpg"), "--wait", "--json")

    assert done.returncode == 1
    jobs = lines(done)
    for name, (state, code, _) in bad.items():
        assert (jobs[name]["state"], jobs[name]["error"]["code"]) == (state, code), name
        assert any(name in line and code in line for line in done.stderr.splitlines()), name
    assert jobs["missing.jpg"]["error"]["code"] == "image_not_found"
    assert jobs["missing.jpg"]["job_id"] is None
    good = [job for name, job in jobs.items() if name.startswith("good")]
    assert [job["state"] for job in good] == ["succeeded"] * 3
    assert all(len(job["predictions"]) == 5 for job in good)
    assert worker.rss_bytes() - before < 200 * MIB
    assert "Traceback" not in done.stderr


def test_the_json_line_has_the_agreed_shape(alexq: Run, start_worker: StartWorker, photos: Path) -> None:
    start_worker()

    done = alexq("submit", str(photos / "good-0.jpg"), "--wait", "--json", "--top-k", "2")

    job = json.loads(done.stdout)
    assert {"job_id", "source", "state", "attempt", "predictions", "model", "error", "timings"} <= job.keys()
    assert [sorted(prediction) for prediction in job["predictions"]] == [
        ["index", "label", "probability", "rank"]
    ] * 2
    assert sorted(job["model"]) == ["name", "precision", "trained", "version"]
    assert job["model"]["trained"] is False
    assert job["error"] is None


def test_without_waiting_the_ids_come_at_once_and_the_results_later(
    alexq: Run, start_worker: StartWorker, photos: Path
) -> None:
    accepted = alexq("submit", "-", stdin="\n".join(map(str, sorted(photos.iterdir()))))
    assert accepted.returncode == 0
    ids = [line.split()[0] for line in accepted.stdout.splitlines()]
    assert len(ids) == 3
    pending = alexq("result", ids[0], "--json")
    assert (pending.returncode, json.loads(pending.stdout)["state"]) == (1, "queued")

    start_worker()
    submission = accepted.stderr.split("submission ")[1].split(";")[0]
    done = alexq("result", "--wait", submission)

    assert done.returncode == 0
    assert sorted(line.split(":")[0] for line in done.stdout.splitlines()) == sorted(
        map(str, photos.iterdir())
    )
    assert "(untrained model)" in done.stdout
    one = alexq("result", "--wait", "--json", ids[1])
    assert json.loads(one.stdout)["job_id"] == ids[1]


def test_patterns_are_expanded(alexq: Run, photos: Path) -> None:
    done = alexq("submit", f"{photos}/*.jpg", f"{photos}/*.none", "--json")

    assert done.returncode == 1
    assert [job["state"] for job in lines(done).values()].count("queued") == 3
    assert lines(done)["*.none"]["error"]["code"] == "image_not_found"


def test_ctrl_c_leaves_the_jobs_running_and_says_how_to_fetch_them(
    settings: Settings, photos: Path, producer: Producer
) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "alexq", "submit", str(photos), "--wait"],
        env=environment(settings),
        stderr=subprocess.PIPE,
        text=True,
    )
    with redis.Redis.from_url(settings.broker_url) as client:
        eventually(lambda: client.pubsub_channels("alexq:finished:*"), what="it waits for results")

    command.send_signal(signal.SIGINT)
    stderr = command.communicate(timeout=120)[1]

    assert command.returncode == 130
    assert f"alexq result --wait {producer.newest()[0].submission_id}" in stderr
    assert {job.state for job in producer.newest()} == {"queued"}


def test_a_terminal_shows_progress(settings: Settings, photos: Path, start_worker: StartWorker) -> None:
    start_worker()
    main, terminal = pty.openpty()
    shown: list[bytes] = []
    reading = threading.Thread(target=lambda: shown.extend(iter_read(main)))
    reading.start()  # or a terminal that is full of what it shows while it waits keeps it waiting
    done = subprocess.run(
        [sys.executable, "-m", "alexq", "submit", str(photos), "--wait"],
        env={**environment(settings), "TERM": "xterm-256color", "COLUMNS": "100"},
        stdout=terminal,
        stderr=terminal,
        timeout=200,
        check=False,
    )
    os.close(terminal)
    reading.join(60)
    os.close(main)

    assert done.returncode == 0
    assert b"classifying" in b"".join(shown)
    assert b"/3" in b"".join(shown)
    assert b"".join(shown).count(b"(untrained model)") == 3


def iter_read(file: int) -> Iterator[bytes]:
    """Yield what comes, until the other end is closed."""
    with suppress(OSError):
        while chunk := os.read(file, 65_536):
            yield chunk


def test_jobs_are_listed_shown_cancelled_and_redriven(alexq: Run, photos: Path) -> None:
    accepted = alexq("submit", str(photos))
    ids = [line.split()[0] for line in accepted.stdout.splitlines()]

    cancelled = alexq("jobs", "cancel", ids[0])
    again = alexq("jobs", "cancel", ids[0])

    assert cancelled.stdout.split() == [ids[0], "cancelled"]
    assert "had already ended" in again.stdout
    assert json.loads(alexq("jobs", "show", ids[0]).stdout)["state"] == "cancelled"
    listed = alexq("jobs", "list", "--state", "queued", "--json")
    assert sorted(json.loads(line)["job_id"] for line in listed.stdout.splitlines()) == sorted(ids[1:])
    assert ids[0] in alexq("jobs", "list").stdout
    assert "0 dead jobs" in alexq("jobs", "redrive", "--all").stderr
    assert alexq("jobs", "redrive").returncode == 2
    unknown = alexq("result", "01a209f7-881f-74cd-baca-3dbe767966fb")
    assert (unknown.returncode, "job_not_found" in unknown.stderr) == (1, True)
    assert alexq("result", "no-id").returncode == 2


def test_dead_jobs_show_why_and_are_redriven_by_what_they_died_of(
    alexq: Run, photos: Path, database: Database
) -> None:
    ids = [UUID(line.split()[0]) for line in alexq("submit", str(photos)).stdout.splitlines()]
    system = System(database)
    claims = system.claim(ids)
    system.commit(
        [Errored(claims[0], "image_lost", "gone", is_retryable=False), Crashed(claims[1], "SIGSEGV")]
    )
    system.change([claims[1].job_id], state=JobState.DEAD)

    shown = alexq("jobs", "list", "--state", "dead").stdout
    [head, crashed, lost] = [line.split() for line in shown.splitlines()]
    assert head == ["job", "error", "attempts", "errors", "crashes", "worker", "image", "source"]
    assert crashed[1:6] == ["worker_crashed", "1", "0", "1", "h:1"]
    assert lost[1:6] == ["image_lost", "1", "1", "0", "h:1"]
    assert claims[0].image_key.startswith(lost[6])

    assert alexq("jobs", "redrive", "--all", "--error", "image_lost").returncode == 2
    redriven = alexq("jobs", "redrive", "--error", "image_lost")
    assert redriven.stdout.split() == [str(claims[0].job_id), "queued"]
    assert alexq("jobs", "redrive", "--error", "image_lost").stderr.split()[0] == "0"
    assert "@" in system.events(claims[0].job_id)[-1].actor
    by_submission = alexq("jobs", "redrive", "--submission", str(claims[1].submission_id))
    assert by_submission.stdout.split() == [str(claims[1].job_id), "queued"]


def test_a_deadline_is_in_seconds_from_now(alexq: Run, photos: Path, database: Database) -> None:
    refused = alexq("submit", str(photos), "--deadline", "0")
    assert (refused.returncode, "more than 0" in refused.stderr) == (2, True)
    [job_id, *_] = [
        line.split()[0] for line in alexq("submit", str(photos), "--deadline", "3600").stdout.splitlines()
    ]

    with database.read() as connection:
        left = select((func.julianday(JobRow.expires_at) - func.julianday("now")) * 86_400)
        seconds = connection.execute(left.where(JobRow.id == UUID(job_id))).scalar_one()
    assert 3500 < seconds <= 3600


def test_unknown_ids_cost_the_known_ones_nothing(alexq: Run, photos: Path) -> None:
    [first, second, *_] = [line.split()[0] for line in alexq("submit", str(photos)).stdout.splitlines()]
    unknown = "01a209f7-881f-74cd-baca-3dbe767966fb"

    cancelled = alexq("jobs", "cancel", first, unknown, second)
    redriven = alexq("jobs", "redrive", first, unknown)

    assert (cancelled.returncode, redriven.returncode) == (1, 1)
    assert cancelled.stdout.split() == [first, "cancelled", second, "cancelled"]
    assert "is not dead" in redriven.stdout
    assert unknown in cancelled.stderr
    assert unknown in redriven.stderr


@pytest.mark.parametrize("name", ["new\nline.jpg", "esc\x1b[31mred.jpg"])
def test_a_file_name_cannot_steer_a_terminal_or_a_pipe(alexq: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(encode(photo_crops(1)[0], "JPEG"))

    shown = alexq("submit", str(tmp_path / name)).stdout + alexq("jobs", "list").stdout

    assert "\x1b" not in shown
    assert len([line for line in shown.splitlines() if ".jpg" in line]) == 2


def test_names_from_stdin_may_be_anything(alexq: Run, photos: Path) -> None:
    crlf = alexq("submit", "-", stdin=f"{photos}/good-0.jpg\r\n")
    nul = alexq("submit", "-", "--json", stdin=f"{photos}/good-1.jpg\n\0\x01binary\n")

    assert crlf.returncode == 0
    assert nul.returncode == 1
    assert sorted(job["state"] for job in lines(nul).values()) == ["queued", "rejected"]
    assert alexq("submit", "").returncode == 2
    assert "Traceback" not in nul.stderr


def test_output_that_cannot_be_written_is_said_in_one_line(settings: Settings, photos: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "alexq", "submit", str(photos)],
            env=environment(settings),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_waiting_without_a_worker_says_so(settings: Settings, photos: Path) -> None:
    command = subprocess.Popen(
        [sys.executable, "-m", "alexq", "submit", str(photos), "--wait"],
        env=environment(settings),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stderr is not None
    try:
        assert "no worker is alive" in command.stderr.readline()
    finally:
        command.kill()
        command.communicate()


def test_without_a_stack_the_person_is_told_of_alexq_up(tmp_path: Path, photos: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alexq", "submit", str(photos), "--data-dir", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert "alexq up" in done.stderr
    assert done.stdout == ""


def test_the_same_commands_go_through_a_gateway(
    alexq: Run, start_worker: StartWorker, photos: Path, settings: Settings, tmp_path: Path
) -> None:
    (photos / "bad.jpg").write_text("no picture")
    with running_gateway(settings, tmp_path / "gateway.log") as gateway:
        start_worker()
        server = ("--server", gateway.url)
        nowhere = str(tmp_path / "nowhere.jpg")
        submitted = alexq("submit", str(photos), nowhere, "--wait", "--json", *server)
        listed = alexq("jobs", "list", "--json", *server)
        ids = [json.loads(line)["job_id"] for line in listed.stdout.splitlines()]
        submission = json.loads(listed.stdout.splitlines()[0])["submission_id"]
        of_submission = alexq("result", submission, "--json", *server)
        of_job = alexq("result", ids[0], "--wait", *server)
        cancelled = alexq("jobs", "cancel", ids[0], *server)
        redriven = alexq("jobs", "redrive", "--all", *server)
    away = alexq("jobs", "list", "--server", "http://127.0.0.1:9")

    by_name = lines(submitted)
    assert submitted.returncode == 1  # two were refused
    assert [by_name[f"good-{number}.jpg"]["state"] for number in range(3)] == ["succeeded"] * 3
    assert by_name["bad.jpg"]["error"]["code"] == "image_type_unsupported"
    assert by_name["nowhere.jpg"]["error"]["code"] == "image_not_found"
    assert len(ids) == len(of_submission.stdout.splitlines()) == 3
    assert (of_job.returncode, cancelled.returncode, redriven.returncode) == (0, 0, 0)
    assert "had already ended" in cancelled.stdout
    assert (away.returncode, away.stdout) == (3, "")
    assert "trying again" in away.stderr
    assert "gateway_unavailable" in away.stderr
