"""Results of the past answer again where that is asked for, and nowhere else: with real workers."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_producer.client import Client
from alexq_schema.job import Job, JobState
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from tests.helpers.eventually import eventually
from tests.helpers.gateway import JPEG, GatewayProcess
from tests.helpers.models import BASE, add_version, own_store
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def store(models_dir: Path, tmp_path: Path) -> ModelStore:
    return own_store(models_dir, tmp_path / "models")


@pytest.fixture
def settings(settings: Settings, store: ModelStore) -> Settings:
    return settings.model_copy(update={"models_dir": store.models_dir})


@pytest.fixture(scope="module")
def photo() -> bytes:
    return encode(photo_crops(1)[0])


def computed(worker: WorkerProcess) -> int:
    return sum(line["size"] for line in worker.lines("batch"))


def said(job: Job) -> list[tuple[int, float]]:
    return [(one.index, one.probability) for one in job.predictions]


def version_of(job: Job) -> str:
    assert job.model is not None
    return f"{job.model.name}/{job.model.version}"


def test_the_second_time_nothing_is_computed_unless_something_differs(
    producer: Producer, start_worker: StartWorker, store: ModelStore, photo: bytes
) -> None:
    second = add_version(store, "second")
    worker = start_worker()

    def ask(**how: Any) -> Job:
        return producer.classify(photo, timeout_s=150, **how)

    first = ask(reuse=True)
    again = [ask(reuse=True) for _ in range(3)]
    assert {job.state for job in (first, *again)} == {JobState.SUCCEEDED}
    assert first.reused_from is None
    assert {job.reused_from for job in again} == {first.job_id}
    assert all(said(job) == said(first) and job.model == first.model for job in again)
    assert {job.timings.forward_s for job in again} == {None}
    eventually(lambda: computed(worker) == 1, what="its one batch is logged")

    others = [ask(), ask(reuse=True, top_k=3), ask(reuse=True, model=second)]
    assert [job.reused_from for job in others] == [None] * 3
    assert version_of(others[-1]) == second
    pinned = ask(reuse=True, model=second)
    assert (pinned.reused_from, version_of(pinned)) == (others[-1].job_id, second)
    assert ask(reuse=True, model=BASE).reused_from == first.job_id  # the same version, by its name
    assert ask().reused_from is None

    store.activate(second)
    eventually(lambda: worker.lines_with(f"switched to model {second}"), what="it serves the other version")
    after = ask(reuse=True)
    assert (after.reused_from, version_of(after)) == (others[-1].job_id, second)
    store.activate(BASE)
    eventually(lambda: worker.lines_with(f"switched to model {BASE}"), what="it is back")
    assert ask(reuse=True).reused_from == first.job_id
    assert worker.terminate() == 0


def test_a_key_turns_it_on_for_its_tenant_alone(
    gateway: GatewayProcess, start_worker: StartWorker, settings: Settings, photo: bytes
) -> None:
    keys = {}
    for tenant, flags in (("shop", ["--reuse"]), ("other", ["--reuse"]), ("plain", [])):
        made = subprocess.run(
            [sys.executable, "-m", "alexq", "keys", "create", tenant, "--json", *flags],
            env=environment(settings),
            capture_output=True,
            text=True,
            check=True,
        )
        keys[tenant] = json.loads(made.stdout)["key"]
    worker = start_worker()

    def ask(tenant: str, **params: Any) -> dict[str, Any]:
        headers = {**JPEG, "Prefer": "wait=90"}
        with gateway.client(keys[tenant]) as http:
            answer = http.post("/v1/jobs", params=params, headers=headers, content=photo)
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        assert job["state"] == "succeeded"
        return job

    first = ask("shop")
    assert ask("shop")["reused_from"] == first["job_id"]
    others = [ask("other"), ask("plain"), ask("plain"), ask("plain", reuse=True)]
    assert [one["reused_from"] for one in others] == [None] * 4
    assert ask("other")["reused_from"] == others[0]["job_id"]
    assert ask("plain", reuse=True)["reused_from"] == others[-1]["job_id"]
    eventually(lambda: computed(worker) == 5, what="its batches are logged")

    with Client(gateway.url, api_key=keys["shop"]) as client:
        jobs = client.submit([photo] * 10).wait(timeout_s=150)
    assert {str(job.reused_from) for job in jobs} == {first["job_id"]}
    with gateway.client(keys["shop"]) as http:
        infer = {
            "inputs": [
                {
                    "name": "image",
                    "shape": [1],
                    "datatype": "BYTES",
                    "data": [base64.b64encode(photo).decode()],
                }
            ]
        }
        answered = http.post("/v2/models/alexnet/infer", json=infer)
        assert answered.status_code == 200, answered.text
    assert computed(worker) == 5
    listed = subprocess.run(
        [sys.executable, "-m", "alexq", "keys", "list"],
        env=environment(settings),
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[2] for line in listed.stdout.splitlines()] == [
        "read,submit,reuse",
        "read,submit,reuse",
        "read,submit",
    ]
    assert worker.terminate() == 0
