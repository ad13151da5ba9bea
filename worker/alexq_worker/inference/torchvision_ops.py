"""Import torchvision where its compiled operators do not load.

torchvision on PyPI is built for CUDA. Beside a CPU build of torch its library does not load, and
``import torchvision`` fails because it registers shape functions for ``nms`` and ``qnms``, which
then have no schema. Declaring the two schemas first is enough for models and transforms; calling
them still fails, as it would without this. Where the library loads, nothing is declared.
"""

from __future__ import annotations

import importlib
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch.library import Library

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_lock = threading.Lock()
_declared: list[Library] = []  # a Library that is collected takes its schemas with it


def import_torchvision() -> ModuleType:
    """Return the module ``torchvision``, declaring its missing operators before the first import.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    with _lock:
        if "torchvision" not in sys.modules and not _declared and not _operators_load():
            library = Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for schema in _SCHEMAS:
                library.define(schema)  # type: ignore[no-untyped-call]
            _declared.append(library)
        return importlib.import_module("torchvision")


def _operators_load() -> bool:
    """Return whether torchvision's compiled library loads beside this torch, and load it if so."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # not installed: leave it to the import to say so
    libraries = [path for path in Path(spec.origin).parent.glob("_C.*") if path.suffix in (".so", ".pyd")]
    try:
        for library in libraries:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return bool(libraries)
