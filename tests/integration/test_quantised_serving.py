"""A quantised version in a real worker: what results say of it, and what ``auto`` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from alexq_producer import Producer
from alexq_schema.errors import DeviceError
from alexq_schema.job import JobState
from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from alexq_worker.inference import int8
from alexq_worker.inference.precision import MIN_AGREEMENT
from alexq_worker.inference.quantising import MIN_IMAGES, quantize
from tests.helpers.models import own_store
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

pytestmark = pytest.mark.slow
SERVED = 24


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the kind of database."""
    return sqlite_url


@pytest.fixture
def store(alexnet_dir: Path, tmp_path: Path) -> ModelStore:
    return own_store(alexnet_dir, tmp_path / "models")


@pytest.fixture
def settings(settings: Settings, store: ModelStore) -> Settings:
    return settings.model_copy(update={"models_dir": store.models_dir, "device": "cpu", "max_batch": SERVED})


def test_int8_and_auto_go_through_the_queue(
    producer: Producer, start_worker: Callable[..., WorkerProcess], store: ModelStore, tmp_path: Path
) -> None:
    try:
        int8.require_engine(torch.device("cpu"))
    except DeviceError as error:
        pytest.skip(str(error))
    active = store.active_ref()
    assert active is not None
    folder = tmp_path / "pictures"
    folder.mkdir()
    photos = [encode(crop) for crop in photo_crops(MIN_IMAGES)]
    for number, photo in enumerate(photos):
        (folder / f"{number}.jpg").write_bytes(photo)
    made = quantize(store, active, folder, "alexnet/small", max_pixels=10**7, say=lambda _: None)
    assert made.info.agreement is not None

    def answers() -> list[set[int]]:
        jobs = producer.submit(photos[:SERVED]).wait(timeout_s=300)
        assert {job.state for job in jobs} == {JobState.SUCCEEDED}
        models = {(job.model.version, job.model.precision) for job in jobs if job.model is not None}
        ((version, precision),) = models
        assert version == made.info.version
        by_precision.append(precision)
        return [{one.index for one in job.predictions} for job in jobs]

    by_precision: list[str] = []
    found = []
    for precision in ("fp32", "int8", "auto"):
        worker = start_worker(precision=precision, model="alexnet/small")
        found.append(answers())
        assert worker.terminate() == 0
    agrees = made.info.agreement["int8"].top1 >= MIN_AGREEMENT
    assert by_precision[:2] == ["fp32", "int8"]
    assert (by_precision[2] == "int8") is (agrees and torch.cpu.get_capabilities()["avx2"])
    overlap = np.mean([len(exact & small) for exact, small in zip(found[0], found[1], strict=True)])
    assert overlap > 3, "of five labels, most are the same"
