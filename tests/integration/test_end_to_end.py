"""From a photograph to a row of labels, through real processes."""

from __future__ import annotations

import base64
import functools
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
import redis
import safetensors.torch
import torch
from PIL import Image

from alexq.stack.environment import environment
from alexq_producer import Producer
from alexq_schema.job import JobState
from alexq_schema.models import ModelStore
from alexq_schema.names import QUEUES
from alexq_schema.settings import Settings
from alexq_worker.inference.torchvision_ops import import_torchvision
from tests.helpers import nursery
from tests.helpers.eventually import eventually
from tests.helpers.photos import distinct, encode, parity_images, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]


def test_one_photograph_is_classified(
    producer: Producer, start_worker: StartWorker, alexnet_dir: Path
) -> None:
    worker = start_worker(models_dir=alexnet_dir, max_batch=8)

    job = producer.classify(encode(photo_crops(1)[0], "JPEG"), timeout_s=150)

    assert job.state is JobState.SUCCEEDED
    assert len(job.predictions) == 5
    assert job.model is not None
    assert not job.model.trained
    assert worker.terminate() == 0


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)  # the test above has both
@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # the reference's
def test_answers_equal_the_notebooks_whatever_shares_the_batch(
    producer: Producer, start_worker: StartWorker, alexnet_dir: Path
) -> None:
    """The seed notebook's code, run here on the same weights, against the whole system."""
    named = parity_images() * 3
    random.Random(7).shuffle(named)
    expected = {name: reference(alexnet_dir, data) for name, data in parity_images()}
    worker = start_worker(models_dir=alexnet_dir)

    together = producer.submit(data for _, data in named).wait(timeout_s=150)
    alone = [producer.classify(data, timeout_s=150) for _, data in parity_images()[:5]]

    for (name, _), job in [*zip(named, together, strict=True), *zip(parity_images(), alone, strict=False)]:
        assert job.state is JobState.SUCCEEDED, (name, job.error)
        indices, probabilities = expected[name]
        assert [p.index for p in job.predictions] == indices, name
        assert [p.probability for p in job.predictions] == pytest.approx(probabilities, abs=1e-4), name
    assert max(line["size"] for line in worker.lines("batch")) > 1


def reference(models_dir: Path, data: bytes) -> tuple[list[int], list[float]]:
    """Return the notebook's five best classes and their probabilities."""
    network = notebook_model(models_dir)
    transforms = import_torchvision().transforms
    preprocess = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    image = Image.open(io.BytesIO(data)).convert("RGB")
    with torch.no_grad():
        output = network(preprocess(image).unsqueeze(0))
    values, indices = output.softmax(1)[0].topk(5)
    return indices.tolist(), values.tolist()


@functools.cache
def notebook_model(models_dir: Path) -> torch.nn.Module:
    network = import_torchvision().models.alexnet(weights=None)
    version = ModelStore(models_dir).resolve()
    network.load_state_dict(safetensors.torch.load_file(version.weights_path))
    network.eval()
    return network  # type: ignore[no-any-return]


def test_seven_hundred_images_of_one_call_fill_the_batches(
    producer: Producer, start_worker: StartWorker
) -> None:
    worker = start_worker(max_batch=64, image_s=0.005)
    images = [encode(crop, "JPEG") for crop in photo_crops(64)]

    submission = producer.submit(distinct(images, 700))
    jobs = submission.wait(timeout_s=300)

    assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 700
    # A batch is announced before it is logged.
    eventually(
        lambda: sum(line["size"] for line in worker.lines("batch")) == 700, what="every batch is logged"
    )
    sizes = [line["size"] for line in worker.lines("batch")]
    assert len(sizes) < 30
    assert max(sizes) == 64


def test_a_long_submission_does_not_keep_a_single_image_waiting(
    producer: Producer, start_worker: StartWorker
) -> None:
    worker = start_worker(max_batch=16, image_s=0.02)
    images = [encode(crop, "JPEG") for crop in photo_crops(64)]
    bulk = producer.submit(distinct(images, 500))
    eventually(lambda: len(worker.lines("batch")) > 2, what="the bulk submission is under way")

    single = producer.classify(images[0], timeout_s=150)

    assert single.state is JobState.SUCCEEDED
    assert single.created_at is not None
    assert single.finished_at is not None
    jobs = bulk.wait(timeout_s=300)
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    ended = [job.finished_at for job in jobs if job.finished_at is not None]
    assert sum(single.created_at < at < single.finished_at for at in ended) < 200, "it went before most"
    assert max(ended) > single.finished_at, "first in, first out would have it last"


def test_nothing_is_left_unacked_when_everything_is_done(
    producer: Producer, start_worker: StartWorker, broker_url: str
) -> None:
    start_worker()
    submissions = [producer.submit(encode(crop, "JPEG")) for crop in photo_crops(20)]
    producer.submit(encode(crop, "JPEG") for crop in photo_crops(20)).wait(timeout_s=150)
    for submission in submissions:
        submission.wait(timeout_s=150)

    with redis.Redis.from_url(broker_url) as client:
        eventually(lambda: client.hlen("unacked") == client.zcard("unacked_index") == 0, what="all is acked")


def test_bf16_is_an_option_that_results_name(producer: Producer, start_worker: StartWorker) -> None:
    start_worker(precision="bf16")

    job = producer.classify(encode(photo_crops(1)[0], "JPEG"), timeout_s=150)

    assert job.model is not None
    assert job.model.precision == "bf16"


def test_a_worker_that_is_told_to_stop_leaves_nothing_half_done(
    producer: Producer, start_worker: StartWorker, broker_url: str
) -> None:
    first = start_worker(image_s=0.01, stop_grace_s=140.0)
    images = [encode(crop, "JPEG") for crop in photo_crops(64)]
    submission = producer.submit(distinct(images, 600))
    eventually(lambda: first.lines("batch"))

    assert first.terminate() == 0

    counts = submission.counts()
    assert counts.get(JobState.RUNNING, 0) == 0
    assert counts.get(JobState.QUEUED, 0) > 0
    queued = {job.job_id for job in producer.jobs(submission.job_ids) if job.state is JobState.QUEUED}
    assert queued <= ids_in_queue(broker_url), "every queued job has a message, at once"
    start_worker()
    jobs = submission.wait(timeout_s=150)
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert {job.attempt for job in jobs} == {1}  # being given back uses up no attempt
    assert not first.lines("took 0 jobs back from workers that fell silent")


def ids_in_queue(broker_url: str) -> set[UUID]:
    with redis.Redis.from_url(broker_url) as client:
        messages = [json.loads(text) for queue in QUEUES for text in client.lrange(queue, 0, -1)]
    bodies = [json.loads(base64.b64decode(message["body"])) for message in messages]
    return {UUID(job_id) for _, kwargs, _ in bodies for job_id in kwargs["job_ids"]}


def test_a_worker_starts_only_on_a_model_that_is_whole(
    settings: Settings, tmp_path: Path, models_dir: Path
) -> None:
    copy = shutil.copytree(models_dir, tmp_path / "models")
    weights = next(copy.rglob("weights.safetensors"))
    with weights.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"tampered")

    code, said = run_worker(settings.model_copy(update={"models_dir": copy}), tmp_path / "log")

    assert code == 1
    assert "model_invalid" in said
    assert str(weights) in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"device": "cuda:7"}, 1, "cuda:7"),
        ({"model": "alexnet/none"}, 1, "alexnet/none"),
        ({"database_url": "postgresql://nobody@127.0.0.1:9/none"}, 3, "does not answer"),
        ({"database_url": "sqlite:///{folder}/empty.db"}, 1, "alexq migrate"),
    ],
)
def test_a_worker_that_cannot_start_says_why(
    settings: Settings, tmp_path: Path, change: dict[str, str], code: int, told: str
) -> None:
    update = {name: value.format(folder=tmp_path) for name, value in change.items()}
    returned, said = run_worker(settings.model_copy(update=update), tmp_path / "log")

    assert returned == code
    assert told in said
    assert "Traceback" not in said


def run_worker(settings: Settings, log: Path) -> tuple[int, str]:
    """Return the exit code of a worker that ends by itself, and what it said."""
    worker = nursery.start(["-m", "alexq_worker"], log=log, env=environment(settings))
    return worker.wait(200), log.read_text()
