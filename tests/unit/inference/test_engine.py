"""An engine serves only what it has verified and warmed up."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import safetensors.torch
import torch

from alexq_schema.errors import DeviceError, EngineError, ModelInvalidError, ModelNotReadyError
from alexq_schema.job import ModelRef
from alexq_schema.models import ModelInfo, ModelStore, ModelVersion
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.versions import import_model

pytestmark = pytest.mark.usefixtures("tiny_alexnet")
IMAGES = np.random.default_rng(1).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)


@pytest.fixture
def pets(tmp_path, tiny_state, labels_file) -> ModelVersion:
    weights = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(tiny_state(3), weights)
    return import_model(ModelStore(tmp_path / "models"), "pets/v1", weights, labels_file)


def load(version: ModelVersion, **options) -> Engine:
    return Engine.load(version, **{"device": "cpu", "precision": "fp32", "max_batch": 4} | options)


def rewrite(version: ModelVersion, weights: bytes, **changes) -> ModelVersion:
    """Replace the weights and make ``model.json`` agree, as an author of bad files would."""
    version.weights_path.write_bytes(weights)
    fields = version.info.model_dump() | {"weights_sha256": hashlib.sha256(weights).hexdigest()} | changes
    return ModelVersion(version.folder, ModelInfo.model_validate(fields))


def test_an_engine_says_what_it_serves(pets):
    engine = load(pets, device="auto" if not torch.cuda.is_available() else "cpu")
    assert engine.labels == ["cat", "dog", "horse"]
    assert engine.model_ref == ModelRef(name="pets", version="v1", precision="fp32", trained=True)
    assert engine.device_name == "cpu"
    assert engine.max_batch == 4
    batch = engine.new_batch()
    assert (batch.shape, batch.dtype) == ((4, 224, 224, 3), np.uint8)
    assert batch.flags.writeable


def test_fewer_classes_than_five_give_fewer_predictions(pets):
    engine = load(pets)
    engine.warm_up()
    best = engine.classify(IMAGES)
    assert best.indices.shape == best.probabilities.shape == (4, 3)
    assert np.allclose(best.probabilities.sum(axis=1), 1, atol=1e-6)
    assert (np.diff(best.probabilities, axis=1) <= 0).all()


def test_nothing_is_classified_before_the_warm_up(pets):
    with pytest.raises(ModelNotReadyError, match="warm_up"):
        load(pets).classify(IMAGES)


def test_weights_that_give_no_numbers_never_become_ready(pets, tiny_state):
    state = tiny_state(3)
    state["head.bias"][1] = torch.inf
    engine = load(rewrite(pets, safetensors.torch.save(state)))
    with pytest.raises(ModelInvalidError, match="not probabilities"):
        engine.warm_up()
    with pytest.raises(ModelNotReadyError):
        engine.classify(IMAGES)


def test_tampered_weights_are_refused(pets):
    weights = bytearray(pets.weights_path.read_bytes())
    weights[-1] ^= 1
    pets.weights_path.write_bytes(weights)
    with pytest.raises(ModelInvalidError, match="SHA-256"):
        load(pets)


def test_changed_or_too_few_labels_are_refused(pets):
    with pytest.raises(ModelInvalidError, match="3 labels for 4 classes"):
        load(rewrite(pets, pets.weights_path.read_bytes(), classes=4))
    pets.labels_path.write_text("cat\ndog\nmule\n")
    with pytest.raises(ModelInvalidError, match="not the label list"):
        load(pets)


def test_a_file_that_is_no_safetensors_is_refused_whatever_its_hash(pets):
    with pytest.raises(ModelInvalidError, match="cannot read"):
        load(rewrite(pets, b"\x00" * 100))


def test_weights_that_do_not_fit_are_refused_by_name(pets, tiny_state):
    state = tiny_state(4)
    state["surplus"] = state.pop("conv.bias")
    with pytest.raises(ModelInvalidError) as caught:
        load(rewrite(pets, safetensors.torch.save(state)))
    for text in ("missing: conv.bias", "unexpected: surplus", "head.bias (4,), not (3,)"):
        assert text in caught.value.detail
    with pytest.raises(ModelInvalidError, match="'lenet' is unknown"):
        load(rewrite(pets, safetensors.torch.save(tiny_state(3)), architecture="lenet"))


def test_what_was_verified_stays_when_the_file_changes_under_the_engine(pets):
    engine = load(pets)
    engine.warm_up()
    before = engine.classify(IMAGES)
    pets.weights_path.write_bytes(bytes(pets.weights_path.stat().st_size))
    assert np.array_equal(engine.classify(IMAGES).probabilities, before.probabilities)


def test_loading_leaves_torchs_global_state_alone(pets):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    tf32 = torch.backends.cudnn.allow_tf32
    load(pets).warm_up()
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.backends.cudnn.allow_tf32 == tf32


@pytest.mark.parametrize("device", ["cuda:63", "gpu", "xla"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(device, pets):
    with pytest.raises(DeviceError, match=f"{device}.*cpu"):
        load(pets, device=device)


@pytest.mark.parametrize(
    "images",
    [IMAGES[:0], np.concatenate([IMAGES, IMAGES]), IMAGES[:, :200], IMAGES.astype(np.float32)],
    ids=["none", "too many", "another size", "floats"],
)
def test_a_batch_of_another_shape_is_the_callers_mistake(images, pets):
    engine = load(pets)
    engine.warm_up()
    with pytest.raises(ValueError, match="a batch"):
        engine.classify(images)


def test_a_failing_device_is_an_engine_error_and_the_next_batch_works(pets, monkeypatch):
    engine = load(pets)
    engine.warm_up()

    def broken(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nlong advice")

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", broken)
        with pytest.raises(EngineError, match=r"batch of 4: CUDA out of memory.*ALEXQ_MAX_BATCH") as caught:
            engine.classify(IMAGES)
    assert caught.value.is_retryable
    assert engine.classify(IMAGES).indices.shape == (4, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_fp32_agrees_with_the_cpu(version: ModelVersion, engine: Engine, monkeypatch):
    monkeypatch.undo()  # the real AlexNet
    cuda = Engine.load(version, device="cuda", precision="fp32", max_batch=4)
    cuda.warm_up()
    batch = cuda.new_batch()
    batch[:] = IMAGES
    got, expected = cuda.classify(batch), engine.classify(IMAGES)
    assert np.array_equal(got.indices, expected.indices)
    assert np.abs(got.probabilities - expected.probabilities).max() < 1e-4
