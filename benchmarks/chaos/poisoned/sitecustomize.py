"""Makes one image deadly to whichever alexq process decodes it: worker, isolated child, all of them.

Python imports this by itself where ``PYTHONPATH`` names its folder; ``CHAOS_POISON`` is the image's SHA-256.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import os
import signal
import sys
from typing import Any

TARGET = "alexq_worker.inference.decode"


class _Poisoner(importlib.abc.MetaPathFinder):
    """Lets the module be found as ever, and wraps ``Decoder.decode`` once it has been loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the module's own spec, its loader wrapped."""
        if name != TARGET:
            return None
        spec: Any = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_poison(module: Any) -> None:
            load(module)
            decode = module.Decoder.decode

            def deadly(self: Any, data: bytes, *how: Any) -> Any:
                if hashlib.sha256(data).hexdigest() == os.environ["CHAOS_POISON"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return decode(self, data, *how)

            module.Decoder.decode = deadly

        spec.loader.exec_module = load_and_poison
        return spec


if os.environ.get("CHAOS_POISON"):
    sys.meta_path.insert(0, _Poisoner())
