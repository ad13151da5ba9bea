"""From a folder of pictures to right labels: real commands, a real worker, real kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from alexq_schema.training import TrainModel
from alexq_worker.inference.weights import load_network
from alexq_worker.training.starts import find_start
from alexq_worker.training.telling import Teller
from alexq_worker.training.textures import LABELS, write_set
from alexq_worker.training.train import train
from benchmarks.chaos.nursery import Child
from tests.helpers import nursery
from tests.helpers.eventually import eventually
from tests.helpers.models import BASE, own_store
from tests.helpers.nursery import run_alexq, run_models
from tests.helpers.ports import free_port
from tests.helpers.processes import WorkerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_500)]
UNSEEN = 10_000

STOPS_AFTER = """
import time
from alexq_worker.training.telling import Teller
tell = Teller.epoch
def stops(teller, done, epochs):
    tell(teller, done, epochs)
    while done.epoch >= {epoch}:
        time.sleep(1)
Teller.epoch = stops
from alexq_worker.models import app
app()
"""
"""``alexq models`` that trains no further than an epoch, for a test to kill it there."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here."""
    return sqlite_url


@pytest.fixture
def settings(settings: Settings, models_dir: Path, tmp_path: Path) -> Settings:
    """With models of this test's own."""
    store = own_store(models_dir, tmp_path / "models")
    return settings.model_copy(update={"models_dir": store.models_dir, "device": "cpu", "max_batch": 16})


def test_own_labels_are_trained_activated_served_and_measured(
    settings: Settings, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    write_set(tmp_path / "pictures", each=15)
    trained = run_alexq(
        settings, "models", "train", str(tmp_path / "pictures"), "--as", "own/v1", "--epochs", "30"
    )
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout == "own/v1\n"
    training = ModelStore(settings.models_dir).find("own/v1").info.training
    assert training is not None
    assert training.held_out.images == 24
    assert run_alexq(settings, "models", "activate", "own/v1").returncode == 0

    start_worker()
    unseen = write_set(tmp_path / "unseen", each=4, first_seed=UNSEEN)
    truth = {str(path): label for path, label in unseen}
    with Producer(settings) as producer:
        jobs = list(producer.submit(list(truth)).results(timeout_s=300))
    right = sum(job.label == truth[job.source] for job in jobs)
    # What was held out says what to expect, within the luck of 32 pictures.
    assert right / len(jobs) >= min(0.8, training.held_out.top1 - 0.15)

    (tmp_path / "unseen" / "dots" / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    measured = run_alexq(
        settings,
        *("models", "evaluate", "own/v1", str(tmp_path / "unseen"), "--out", str(tmp_path / "report")),
    )
    assert measured.returncode == 0, measured.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["measures"]["images"] == 33
    assert report["measures"]["unanswered"] == 1
    assert report["measures"]["top1"] == pytest.approx(right / 33)
    assert (
        report["unanswered"][0]["error"] == "image_truncated" or "image" in report["unanswered"][0]["error"]
    )
    assert f"{right / 33:.3%} right" in measured.stdout
    assert len(report["measures"]["per_class"]) == len(LABELS)

    other = run_models(
        settings,
        *("train", str(tmp_path / "pictures"), "--as", "own/v2", "--from", BASE, "--epochs", "1"),
    )
    assert other.returncode == 0, other.stderr
    measured = run_alexq(
        settings,
        *("models", "evaluate", "own/v2", str(tmp_path / "unseen"), "--out", str(tmp_path / "other")),
    )
    assert measured.returncode == 0, measured.stderr
    assert measured.stdout.startswith("own/v2, ")  # though own/v1 is active
    assert ModelStore(settings.models_dir).active_ref() == "own/v1"


def test_a_training_that_is_killed_and_resumed_ends_as_one_that_was_not(
    settings: Settings, tmp_path: Path
) -> None:
    write_set(tmp_path / "pictures", each=5)

    def start(
        ref: str, log: Path, *more: str, program: Sequence[str] = ("-m", "alexq_worker.models")
    ) -> Child:
        command = [*program, "train", str(tmp_path / "pictures"), "--as", ref, "--from", BASE]
        command += ["--epochs", "30", "--batch", "16", "--checkpoint-every", "0", *more]
        return nursery.start(command, log=log, env=environment(settings))

    straight_log, resumed_log = tmp_path / "straight.log", tmp_path / "resumed.log"
    assert start("own/straight", straight_log).wait(300) == 0, straight_log.read_text()
    for epoch in (6, 18):
        log = tmp_path / f"killed-{epoch}.log"
        process = start("own/killed", log, "--resume", program=("-c", STOPS_AFTER.format(epoch=epoch)))
        eventually(
            lambda log=log, epoch=epoch: log.exists() and f"epoch {epoch:>3}/" in log.read_text(),
            150,
            what=f"epoch {epoch} is done",
        )
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    assert start("own/killed", resumed_log, "--resume").wait(300) == 0, resumed_log.read_text()
    first_line = next(line for line in resumed_log.read_text().splitlines() if line.startswith("epoch"))
    assert not first_line.startswith("epoch   1/"), "it began again"

    store = ModelStore(settings.models_dir)
    straight, killed = store.find("own/straight").info, store.find("own/killed").info
    assert killed.training == straight.training
    assert killed.weights_sha256 == straight.weights_sha256


def test_two_processes_train_together(settings: Settings, tmp_path: Path) -> None:
    write_set(tmp_path / "pictures", each=5)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *(
                "--master-addr",
                "127.0.0.1",
                "--master-port",
                str(free_port()),
                "-m",
                "alexq_worker.models",
                "train",
            ),
            *(str(tmp_path / "pictures"), "--as", "own/v1", "--from", BASE, "--epochs", "10"),
        ],
        env=environment(settings)
        | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "own/v1\n"
    assert "on 2 × cpu" in done.stderr
    training = ModelStore(settings.models_dir).find("own/v1").info.training
    assert training is not None
    assert training.held_out.images == 8
    assert training.images == 32


def test_every_weight_of_alexnet_is_trained_by_the_papers_recipe(settings: Settings, tmp_path: Path) -> None:
    write_set(tmp_path / "pictures", each=2)
    request = TrainModel.of(
        data=tmp_path / "pictures",
        ref="own/v1",
        method="full",
        recipe="paper",
        epochs=1,
        batch=4,
        learning_rate=1e-3,
    )

    version = train(request, settings, teller=Teller(quiet=True))

    training = version.info.training
    assert training is not None
    assert (training.images, training.held_out.images, training.base) == (8, 8, None)
    network = load_network(version, (torch.device("cpu"),), "fp32")
    before = find_start(request, ModelStore(settings.models_dir)).network(len(LABELS), request.seed)
    same = [
        name
        for (name, after), (_, began) in zip(
            network.named_parameters(), before.named_parameters(), strict=True
        )
        if torch.equal(after, began)
    ]
    assert same == []
