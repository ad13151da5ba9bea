"""Which version was active before, and what is tried beside it: files in the models folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from alexq_schema.errors import ModelInvalidError, ModelNotFoundError
from alexq_schema.ids import new_id
from alexq_schema.model_info import Canary, ModelInfo
from alexq_schema.models import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Three versions of a few bytes: nobody loads them."""
    store = ModelStore(tmp_path / "models")
    labels, weights = b"cat\ndog\n", b"weights"
    for version in ("1", "2", "3"):
        folder = store.folder(f"pets/{version}")
        folder.mkdir(parents=True)
        (folder / "labels.txt").write_bytes(labels)
        (folder / "weights.safetensors").write_bytes(weights)
        info = ModelInfo(
            name="pets",
            version=version,
            architecture="alexnet",
            classes=2,
            weights_sha256=hashlib.sha256(weights).hexdigest(),
            labels_sha256=hashlib.sha256(labels).hexdigest(),
            trained=True,
            source="a test",
        )
        (folder / "model.json").write_text(info.model_dump_json())
    return store


def test_a_rollback_goes_to_the_version_before_and_back(store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError):
        store.rollback()
    for version in ("1", "2", "3", "3"):
        store.activate(f"pets/{version}", "cli:anna")

    assert store.rollback().info.ref == store.active_ref() == "pets/2"
    assert store.rollback().info.ref == "pets/3"
    assert [one.ref for one in store.history()] == [f"pets/{n}" for n in (1, 2, 3, 3, 2, 3)]
    assert [one.actor for one in store.history()] == 4 * ["cli:anna"] + 2 * [""]


def test_a_version_that_an_earlier_release_activated_can_be_gone_back_to(store: ModelStore) -> None:
    (store.models_dir / "active").write_text("pets/1\n")
    store.activate("pets/2")

    assert store.rollback().info.ref == "pets/1"


def test_a_rollback_to_a_damaged_version_changes_nothing(store: ModelStore) -> None:
    store.activate("pets/1")
    store.activate("pets/2")
    store.find("pets/1").labels_path.write_text("changed")

    with pytest.raises(ModelInvalidError):
        store.rollback()
    assert store.active_ref() == "pets/2"
    assert len(store.history()) == 2


def test_what_is_tried_is_checked_and_ended_in_one_step(store: ModelStore) -> None:
    assert store.canary() is None
    with pytest.raises(ModelNotFoundError):
        store.try_beside(Canary(model="pets/4", share=0.1))
    with pytest.raises(ValidationError):
        Canary(model="pets/2", share=1.5)
    store.try_beside(Canary(model="pets/2", share=0.25))
    assert store.canary() == Canary(model="pets/2", share=0.25)

    store.end_canary()
    store.end_canary()
    assert store.canary() is None


def test_the_share_is_of_the_jobs_and_the_same_whoever_asks() -> None:
    canary, ids = Canary(model="pets/2", share=0.25), [new_id() for _ in range(4_000)]
    chosen = [job_id for job_id in ids if canary.has(job_id)]

    assert 800 < len(chosen) < 1_200
    assert all(canary.has(job_id) for job_id in chosen)
    assert all(Canary(model="pets/2", share=1.0).has(job_id) for job_id in ids)
