"""A CUDA that runs on the CPU: a graph is recorded operation by operation, and done again on replay.

As on the device, a replay reads and writes the memory that was there at the capture, and nothing that
needs an answer at once may be captured. Streams do not run beside one another here: whether copies and
kernels wait for each other as they must, only a device can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alexq_worker.inference.cuda import CudaRunner

NEEDS_AN_ANSWER = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}


class Graph:
    """Stands for ``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def replay(self) -> None:
        for function, args, kwargs, results in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old is not new:
                    old.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in NEEDS_AN_ANSWER:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        results = function(*args, **(kwargs or {}))
        self._graph.calls.append((function, args, kwargs or {}, results))
        return results


@contextmanager
def capture(graph: Graph, *, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
    """Stand for ``torch.cuda.graph``."""
    with _Recording(graph):
        yield


class Event:
    """Stands for ``torch.cuda.Event``; whatever it is recorded after is done already."""

    def __init__(self, *, blocking: bool) -> None: ...

    def record(self) -> None: ...

    def wait(self) -> None: ...

    def synchronize(self) -> None: ...


def install(patch: pytest.MonkeyPatch) -> None:
    """Let the runner for CUDA serve the device ``cpu``."""
    patch.setattr(torch.cuda, "CUDAGraph", Graph)
    patch.setattr(torch.cuda, "Event", Event)
    patch.setattr(torch.cuda, "Stream", lambda device: object())
    patch.setattr(torch.cuda, "device", lambda device: nullcontext())
    patch.setattr(torch.cuda, "empty_cache", lambda: None)
    patch.setattr(torch.cuda, "graph", capture)
    patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    patch.setattr(torch.cuda, "synchronize", lambda: None)
    patch.setattr("alexq_worker.inference.cuda.pinned", lambda shape, dtype: torch.zeros(shape, dtype=dtype))
    patch.setattr("alexq_worker.inference.engine.DirectRunner", CudaRunner)
