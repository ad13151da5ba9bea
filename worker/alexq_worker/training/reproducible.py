"""The same numbers again: what must be set for it, for the length of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Make torch's operations repeatable inside the block, and leave its generators as they were.

    On the CPU the same seed and data then give the same bits. On CUDA some operations have no repeatable
    form (the backward pass of AlexNet's pooling is one): they go on, and the last bits may differ.
    """
    was_on, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    devices = [device] if device.type == "cuda" else []
    benchmarked = torch.backends.cudnn.benchmark
    try:
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmarked
        torch.use_deterministic_algorithms(was_on, warn_only=only_warns)


@contextmanager
def one_thread(*, wanted: bool) -> Iterator[None]:
    """Let torch use one thread of the host inside the block, if that is wanted.

    A step of a head is tens of operations on small matrices: on cores that others use too, threads that wait
    for one another at each of them take a hundred times as long.
    """
    threads = torch.get_num_threads()
    try:
        if wanted:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators (dropout) for one step: what a step draws needs no state of the ones before."""
    (word,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(word) >> 1)
