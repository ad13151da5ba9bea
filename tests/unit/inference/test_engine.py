"""An engine serves only what it has verified and warmed up."""

from __future__ import annotations

import hashlib
import weakref

import numpy as np
import pytest
import safetensors.torch
import torch

from alexq_schema.errors import (
    DeviceError,
    DeviceMemoryError,
    EngineError,
    ModelInvalidError,
    ModelNotReadyError,
)
from alexq_schema.job import ModelRef
from alexq_schema.model_info import ModelInfo
from alexq_schema.models import ModelStore, ModelVersion
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
    assert engine.max_batch == engine.batch_limit == 4
    assert not engine.is_graphed
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
    state["head.weight"] *= 1e38
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


def out_of_memory_above(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a larger batch than ``size`` fail in the network."""
    forward = torch.nn.Linear.forward

    def full(self, inputs):
        if len(inputs) > size:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return forward(self, inputs)

    monkeypatch.setattr(torch.nn.Linear, "forward", full)


def test_a_batch_that_does_not_fit_halves_the_limit_at_the_warm_up(pets, monkeypatch, caplog):
    out_of_memory_above(1, monkeypatch)
    engine = load(pets)
    engine.warm_up()
    assert (engine.max_batch, engine.batch_limit) == (4, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "batch of 4" in caplog.messages[0]
    assert "trying batches of 2" in caplog.messages[0]
    assert engine.classify(IMAGES[:1]).indices.shape == (1, 3)
    assert len(engine.new_batch()) == 4


def test_one_image_that_does_not_fit_is_an_error(pets, monkeypatch):
    out_of_memory_above(0, monkeypatch)
    engine = load(pets)
    with pytest.raises(DeviceMemoryError, match="batch of 1"):
        engine.warm_up()
    with pytest.raises(ModelNotReadyError):
        engine.classify(IMAGES[:1])


def test_lowering_the_limit_halves_it_down_to_one(pets):
    engine = load(pets)
    with pytest.raises(ModelNotReadyError):
        engine.lower_limit()
    engine.warm_up()
    before = engine.classify(IMAGES)
    limits = []
    for _ in range(3):
        engine.lower_limit()
        limits.append(engine.batch_limit)
        with pytest.raises(ValueError, match=f"1 to {engine.batch_limit} images, not 4"):
            engine.classify(IMAGES)
        after = engine.classify(IMAGES[: engine.batch_limit])
        assert np.allclose(after.probabilities, before.probabilities[: engine.batch_limit], atol=1e-4)
    assert limits == [2, 1, 1]


def test_lowering_the_limit_goes_on_to_what_fits(pets, monkeypatch):
    engine = load(pets)
    engine.warm_up()
    out_of_memory_above(1, monkeypatch)
    engine.lower_limit()
    assert engine.batch_limit == 1


def test_running_out_of_memory_lets_go_of_what_filled_it(pets, monkeypatch):
    engine = load(pets)
    engine.warm_up()
    filling = []

    def full(self, inputs):
        large = torch.zeros(8)
        filling.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.nn.Linear, "forward", full)
    with pytest.raises(DeviceMemoryError) as caught:
        engine.classify(IMAGES)
    assert caught.value.__cause__ is not None  # and with it the frames
    assert filling[0]() is None


def test_another_failure_while_a_lack_of_memory_is_handled_is_none_itself(pets, monkeypatch):
    engine = load(pets)
    engine.warm_up()
    errors = [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: unknown")]

    def fails(self, inputs):
        raise errors.pop(0)

    monkeypatch.setattr(torch.nn.Linear, "forward", fails)

    def classify() -> None:
        try:
            engine.classify(IMAGES)
        except DeviceMemoryError:
            engine.classify(IMAGES[:2])

    with pytest.raises(EngineError, match="batch of 2: CUDA error") as caught:
        classify()
    assert not isinstance(caught.value, DeviceMemoryError)


def test_what_was_launched_has_its_answer_whenever_it_is_asked_for(pets):
    engine = load(pets)
    engine.warm_up()
    expected = engine.classify(IMAGES)
    first, second = engine.launch(IMAGES[:1].copy()), engine.launch(IMAGES[1:])
    second.wait_copied()
    assert np.array_equal(second.result().probabilities, expected.probabilities[1:])
    assert np.array_equal(first.result().indices, expected.indices[:1])
    assert np.array_equal(first.result().indices, expected.indices[:1])


def test_probabilities_that_are_no_numbers_are_an_error(pets):
    engine = load(pets)
    engine.warm_up()
    with torch.inference_mode():
        engine.forward._network.head.bias[0] = torch.nan
    with pytest.raises(EngineError, match="not finite"):
        engine.classify(IMAGES)
    with pytest.raises(EngineError, match="not finite"):
        engine.check()


def test_the_check_passes_until_the_device_gives_something_else(pets):
    engine = load(pets)
    with pytest.raises(ModelNotReadyError):
        engine.check()
    engine.warm_up()
    engine.check()
    with torch.inference_mode():
        engine.forward._network.head.bias[0] += 100
    with pytest.raises(EngineError, match="those of its warm-up"):
        engine.check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_fp16_is_for_cuda_only(pets):
    for device in ("cpu", "auto"):
        with pytest.raises(DeviceError, match=r"fp16 needs a CUDA device, not .*: set ALEXQ_PRECISION=bf16"):
            load(pets, device=device, precision="fp16")


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_failures(error, is_full, pets, monkeypatch):
    engine = load(pets)
    engine.warm_up()

    def fails(self, inputs):
        raise error

    monkeypatch.setattr(torch.nn.Linear, "forward", fails)
    with pytest.raises(EngineError) as caught:
        engine.classify(IMAGES)
    assert isinstance(caught.value, DeviceMemoryError) == is_full
    assert ("ALEXQ_MAX_BATCH" in caught.value.detail) == is_full


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


def test_a_closed_engine_has_let_go_of_its_network_and_classifies_nothing(pets):
    engine = load(pets)
    engine.warm_up()
    network = weakref.ref(engine.forward._network)

    engine.close()
    engine.close()

    assert network() is None
    with pytest.raises(ModelNotReadyError):
        engine.classify(IMAGES)
