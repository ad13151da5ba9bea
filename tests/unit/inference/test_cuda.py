"""Graphs, slots and sizes: the same tests on a CUDA device and on one that is recorded on the CPU."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import safetensors.torch
import torch

from alexq_schema.errors import DeviceMemoryError, EngineError
from alexq_schema.models import ModelStore, ModelVersion
from alexq_worker.inference.cuda import CudaRunner, Slot, ladder
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.topk import TopK
from alexq_worker.inference.versions import import_model
from tests.unit.inference import recorded_cuda

pytestmark = pytest.mark.usefixtures("tiny_alexnet")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

MAX_BATCH = 6


def pictures(count: int) -> np.ndarray:
    """Return images of one colour each, and some noise: every one has an answer of its own."""
    random = np.random.default_rng(count)
    colours = random.integers(0, 200, (count, 1, 1, 3))
    return (colours + random.integers(0, 56, (count, 224, 224, 3))).astype(np.uint8)


IMAGES = pictures(MAX_BATCH)


@pytest.fixture
def pets(tmp_path, tiny_state, labels_file) -> ModelVersion:
    weights = tmp_path / "mine.safetensors"
    state = tiny_state(3)
    state["head.weight"] *= 0.02  # or every image would have a probability of 1
    safetensors.torch.save_file(state, weights)
    return import_model(ModelStore(tmp_path / "models"), "pets/v1", weights, labels_file)


@pytest.fixture
def expected(pets) -> TopK:
    """The answers of an engine on the CPU."""
    engine = Engine.load(pets, device="cpu", precision="fp32", max_batch=MAX_BATCH)
    engine.warm_up()
    top = engine.classify(IMAGES)
    assert np.diff(np.sort(top.probabilities[:, 0])).min() > 1e-3  # or a mix-up would not show
    return top


@pytest.fixture(params=["recorded", pytest.param("cuda", marks=needs_cuda)])
def load(request, expected, pets) -> Iterator[Callable[..., Engine]]:
    """Load an engine that runs batches as on CUDA; ``expected`` was made before."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "recorded":
            recorded_cuda.install(patch)
        device = "cuda" if request.param == "cuda" else "cpu"

        def load(**options) -> Engine:
            defaults = {"device": device, "precision": "fp32", "max_batch": MAX_BATCH}
            return Engine.load(pets, **(defaults | options))

        yield load


@pytest.fixture
def cuda(load) -> Engine:
    engine = load()
    engine.warm_up()
    return engine


def assert_same(top: TopK, expected: TopK, rows: slice | list[int]) -> None:
    assert np.array_equal(top.indices, expected.indices[rows])
    assert np.abs(top.probabilities - expected.probabilities[rows]).max() < 1e-4


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (48, [1, 2, 4, 8, 16, 32, 48]),
        (64, [1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_the_ladder_ends_at_the_limit(limit, sizes):
    assert ladder(limit) == sizes


def test_every_size_gives_the_same_answers_whatever_the_batch_before_left(cuda, expected):
    assert cuda.is_graphed
    batch = cuda.new_batch()
    for size in [6, 1, 5, 3, 2, 4, 6]:
        chosen = [(size + place) % MAX_BATCH for place in range(size)]
        batch[:size] = IMAGES[chosen]
        assert_same(cuda.classify(batch[:size]), expected, chosen)


def test_batches_on_their_way_keep_their_own_answers(cuda, expected):
    first, second = cuda.launch(IMAGES[:2]), cuda.launch(IMAGES[2:5])
    third = cuda.launch(IMAGES[5:])  # takes the first one's place
    assert_same(second.result(), expected, slice(2, 5))
    assert_same(third.result(), expected, slice(5, 6))
    assert_same(first.result(), expected, slice(0, 2))
    assert_same(first.result(), expected, slice(0, 2))


def test_a_batch_takes_the_next_larger_graph(cuda, monkeypatch):
    slots = cuda.runner.slots
    sizes = {id(graph): size for slot in slots for size, graph in slot.graphs.items()}
    whole, taken = torch.cuda.CUDAGraph.replay, []

    def replay(graph):
        taken.append(sizes[id(graph)])
        whole(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", replay)
    for size in range(1, MAX_BATCH + 1):
        cuda.classify(IMAGES[:size])
    assert taken == [1, 2, 4, 4, 6, 6]


def test_two_batches_are_launched_without_waiting_and_a_third_waits_for_the_first(cuda, monkeypatch):
    whole, waits = torch.cuda.Event.synchronize, []

    def synchronize(event):
        waits.append(event)
        whole(event)

    monkeypatch.setattr(torch.cuda.Event, "synchronize", synchronize)
    cuda.launch(IMAGES)
    cuda.launch(IMAGES)
    assert waits == []
    cuda.launch(IMAGES)
    assert len(waits) == 1


def test_the_hosts_batch_is_free_once_it_is_copied(cuda, expected):
    batch = cuda.new_batch()
    batch[:] = IMAGES
    launched = cuda.launch(batch)
    launched.wait_copied()
    batch[:] = 0
    assert_same(launched.result(), expected, slice(None))
    launched.wait_copied()


def test_without_graphs_the_answers_are_the_same(cuda, expected):
    runner = CudaRunner(cuda.forward, use_graphs=False)
    with torch.inference_mode():
        runner.prepare(MAX_BATCH)
        assert not runner.is_graphed
        assert_same(runner.launch(torch.from_numpy(IMAGES)).fetch(), expected, slice(None))


@pytest.mark.parametrize("succeed", [0, 3])
def test_a_capture_that_fails_is_said_once_and_batches_go_through_all_the_same(
    succeed, load, expected, monkeypatch, caplog
):
    whole, captures = torch.cuda.graph, []

    def fails(*args, **kwargs):
        captures.append(args)
        if len(captures) > succeed:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nlong advice")
        return whole(*args, **kwargs)

    monkeypatch.setattr(torch.cuda, "graph", fails)
    engine = load()
    with caplog.at_level(logging.WARNING, "alexq.inference"):
        engine.warm_up()
        assert not engine.is_graphed
        engine.lower_limit()
    (record,) = caplog.records
    assert "no CUDA graphs" in record.message
    assert "long advice" not in record.message
    assert not engine.is_graphed
    assert_same(engine.classify(IMAGES[:3]), expected, slice(0, 3))


def test_a_capture_that_fails_while_a_lack_of_memory_is_handled_lacks_none_itself(
    cuda, expected, monkeypatch
):
    def fails(*args, **kwargs):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def full(images):
        raise DeviceMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.cuda, "graph", fails)
    try:
        full(IMAGES)
    except DeviceMemoryError:
        cuda.lower_limit()
    assert cuda.batch_limit == 3
    assert not cuda.is_graphed
    assert_same(cuda.classify(IMAGES[:3]), expected, slice(0, 3))


def test_a_graph_that_gives_other_answers_is_not_used(load, expected, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: None)
    engine = load()
    engine.warm_up()
    assert "other probabilities" in caplog.text
    assert not engine.is_graphed
    assert_same(engine.classify(IMAGES), expected, slice(None))


def test_what_does_not_fit_while_it_is_captured_halves_the_limit(load, expected, monkeypatch, caplog):
    whole = Slot.capture

    def full(self, size, stream, pool):
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        whole(self, size, stream, pool)

    monkeypatch.setattr(Slot, "capture", full)
    engine = load()
    engine.warm_up()
    assert (engine.max_batch, engine.batch_limit) == (6, 1)  # 6, 3, 1
    assert engine.is_graphed
    assert "trying batches of 3" in caplog.text
    assert_same(engine.classify(IMAGES[4:5]), expected, slice(4, 5))
    with pytest.raises(ValueError, match="1 to 1 images"):
        engine.classify(IMAGES[:2])


def test_an_error_that_hides_the_lack_of_memory_is_seen_through(load, monkeypatch):
    def full(self, size, stream, pool):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(Slot, "capture", full)
    with pytest.raises(DeviceMemoryError):
        load().warm_up()


def test_a_lower_limit_needs_less_memory_and_finishes_what_is_on_its_way(cuda, expected, monkeypatch):
    launched = cuda.launch(IMAGES)
    old = [weakref.ref(slot) for slot in cuda.runner.slots]
    whole, left = torch.cuda.empty_cache, []

    def empty_cache() -> None:
        left.append([slot() is not None for slot in old])
        whole()

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    cuda.lower_limit()
    assert left[0] == [False, False]
    assert cuda.batch_limit == 3
    assert cuda.is_graphed
    slots = cuda.runner.slots
    assert [sorted(slot.graphs) for slot in slots] == [[1, 2, 3], [1, 2, 3]]
    assert [len(slot.images) for slot in slots] == [3, 3]
    assert_same(launched.result(), expected, slice(None))
    assert_same(cuda.classify(IMAGES[3:]), expected, slice(3, 6))


def test_a_failure_on_the_device_shows_when_the_answer_is_asked_for(cuda, expected, monkeypatch):
    def fails(event):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nlong advice")

    launched = cuda.launch(IMAGES)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda.Event, "synchronize", fails)
        for _ in range(2):
            with pytest.raises(
                EngineError, match="batch of 6: CUDA error: an illegal memory access"
            ) as caught:
                launched.result()
            assert not isinstance(caught.value, DeviceMemoryError)
    assert_same(cuda.classify(IMAGES), expected, slice(None))


def test_the_check_notices_a_device_that_forgets(cuda):
    cuda.check()
    with torch.inference_mode():
        cuda.forward._network.head.bias[0] += 1
    with pytest.raises(EngineError, match="those of its warm-up"):
        cuda.check()


@needs_cuda
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_cuda_agrees_with_fp32(precision, pets, expected):
    engine = Engine.load(pets, device="cuda", precision=precision, max_batch=MAX_BATCH)
    engine.warm_up()
    assert engine.is_graphed
    top = engine.classify(IMAGES)
    assert np.abs(top.probabilities - expected.probabilities).max() < 0.03


@needs_cuda
def test_alexnet_in_fp32_is_fp32_though_the_process_allows_tf32(version, engine, monkeypatch):
    monkeypatch.undo()  # the real AlexNet
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        cuda = Engine.load(version, device="cuda", precision="fp32", max_batch=MAX_BATCH)
        cuda.warm_up()
        got = cuda.classify(IMAGES)
    finally:
        torch.set_float32_matmul_precision(before)
    wanted = engine.classify(IMAGES)
    assert np.array_equal(got.indices, wanted.indices)
    assert np.abs(got.probabilities - wanted.probabilities).max() < 1e-4
