"""Batches fill while the device is busy and seal when it is free."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alexq_worker.pipeline.assembly import Assembly, Batch
from alexq_worker.pipeline.ports import Pixels
from alexq_worker.pipeline.residents import Resident


class Grey:
    """A picture of one value."""

    def __init__(self, value: int) -> None:
        self.value = value

    def write_to(self, out: Pixels) -> None:
        out[...] = self.value


def resident(max_batch: int = 4, side: int = 2) -> Resident:
    engine: Any = SimpleNamespace(
        batch_limit=max_batch, new_batch=lambda: np.zeros((max_batch, side, side, 3), np.uint8)
    )
    nothing: Any = None
    return Resident("grey/1", 1, decoder=nothing, engine=engine, labels=[], max_batch=max_batch)


class One:
    """An assembly in which there is one version."""

    def __init__(self, max_batch: int = 4) -> None:
        self.resident = resident(max_batch)
        self.assembly: Assembly[int] = Assembly(self.resident)
        self.recycle, self.close = self.assembly.recycle, self.assembly.close

    def add(self, item: int, picture: Grey) -> None:
        self.assembly.add(item, picture, self.resident)

    def seal(self) -> Batch[int] | None:
        sealed = self.assembly.seal()
        return None if sealed is None else sealed[1]


def test_a_free_device_takes_what_is_there_without_waiting_for_more() -> None:
    waiting = One()
    waiting.add(7, Grey(7))

    batch = waiting.seal()

    assert batch is not None
    assert batch.items == [7]
    assert batch.pixels.shape == (1, 2, 2, 3)
    assert (batch.pixels == 7).all()


def test_pictures_gather_while_the_device_is_busy() -> None:
    busy = One()
    busy.add(1, Grey(1))
    first = busy.seal()
    assert first is not None
    for value in (2, 3, 4):
        busy.add(value, Grey(value))
    busy.recycle(first)

    second = busy.seal()

    assert second is not None
    assert second.items == [2, 3, 4]
    assert [int(image[0, 0, 0]) for image in second.pixels] == [2, 3, 4]


def test_a_full_batch_makes_decoders_wait_for_the_device() -> None:
    full = One(max_batch=2)
    for value in (1, 2):
        full.add(value, Grey(value))
    waits = threading.Thread(target=full.add, args=(3, Grey(3)))
    waits.start()
    waits.join(0.05)
    assert waits.is_alive()

    first = full.seal()
    waits.join(60)

    assert not waits.is_alive()
    assert first is not None
    assert first.items == [1, 2]


def test_a_sealed_batch_waits_for_the_copy_in_progress() -> None:
    slow = One()
    may_write = threading.Event()
    is_writing = threading.Event()

    class Slow(Grey):
        def write_to(self, out: Pixels) -> None:
            is_writing.set()
            assert may_write.wait(60)
            super().write_to(out)

    writer = threading.Thread(target=slow.add, args=(9, Slow(9)))
    writer.start()
    assert is_writing.wait(60)
    sealed: list[Pixels] = []
    sealer = threading.Thread(target=lambda: sealed.append(slow.seal().pixels.copy()))  # type: ignore[union-attr]
    sealer.start()
    sealer.join(0.05)
    assert sealer.is_alive()
    may_write.set()
    sealer.join(60)
    writer.join(60)

    assert (sealed[0] == 9).all()


def test_closing_hands_out_the_rest_and_then_nothing() -> None:
    closing = One()
    closing.add(1, Grey(1))
    closing.close()

    last = closing.seal()

    assert last is not None
    assert last.items == [1]
    closing.recycle(last)
    assert closing.seal() is None


@pytest.mark.parametrize("decoders", [1, 4])
def test_every_picture_goes_through_once_whatever_the_timing(decoders: int) -> None:
    shared = One(max_batch=8)
    per_decoder = 200

    def decode(number: int) -> None:
        for index in range(per_decoder):
            value = number * per_decoder + index
            shared.add(value, Grey(value % 251))

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(decoders)]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    while len(seen) < decoders * per_decoder:
        batch = shared.seal()
        assert batch is not None
        assert [int(image[0, 0, 0]) for image in batch.pixels] == [item % 251 for item in batch.items]
        seen += batch.items
        shared.recycle(batch)
    for thread in threads:
        thread.join(60)

    assert sorted(seen) == list(range(decoders * per_decoder))


def test_pictures_of_two_versions_are_in_batches_of_their_own_and_take_turns() -> None:
    small, large = resident(side=2), resident(side=3)
    shared: Assembly[int] = Assembly(small)
    for value in range(4):
        shared.add(value, Grey(value), small if value % 2 else large)

    sealed = [shared.seal(), shared.seal()]

    assert [(batch.items, batch.pixels.shape[1]) for _, batch in sealed if batch] == [  # type: ignore[misc]
        ([0, 2], 3),
        ([1, 3], 2),
    ]
    assert [version for version, _ in sealed] == [large, small]  # type: ignore[misc]


def test_the_buffers_of_a_version_go_with_it() -> None:
    shared: Assembly[int] = Assembly(resident())
    other = resident()
    shared.add(1, Grey(1), other)
    sealed = shared.seal()
    assert sealed is not None
    buffer = weakref.ref(sealed[1])
    shared.recycle(sealed[1])
    del other, sealed
    gc.collect()

    assert buffer() is None
