"""How the face hands its settings to the processes it starts, and whether it can start them."""

from __future__ import annotations

import importlib.util
import os
import socket
from typing import Final

from alexq_schema.errors import StackError
from alexq_schema.settings import Settings

_WORKER_NEEDS: Final = (
    "torch",
    "torchvision",
    "PIL",
    "numpy",
    "safetensors",
    "structlog",
    "prometheus_client",
)
_MONITOR_NEEDS: Final = ("flower", "PIL", "prometheus_client", "structlog")
_GATEWAY_NEEDS: Final = (
    "fastapi",
    "httptools",
    "limits",
    "multipart",
    "prometheus_client",
    "standardwebhooks",
    "stream_unzip",
    "structlog",
    "uvicorn",
)


def environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with every setting written out as ``ALEXQ_…``, its secrets too."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ALEXQ_")}
    for name in Settings.model_fields:
        if (value := getattr(settings, name)) is not None:
            env[f"ALEXQ_{name.upper()}"] = str(value)
    env["PYTHONUNBUFFERED"] = "1"  # a child's lines appear when they are written, not 8 kB later
    return env


def require_worker() -> None:
    """Raise StackError, with what to install, where the worker's packages are not."""
    _require("worker", _WORKER_NEEDS)


def require_monitor() -> None:
    """Raise StackError, with what to install, where the monitor's packages are not."""
    _require("monitor", _MONITOR_NEEDS)


def require_gateway() -> None:
    """Raise StackError, with what to install, where the gateway's packages are not."""
    _require("gateway", _GATEWAY_NEEDS)


def _require(part: str, packages: tuple[str, ...]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise StackError(f'the {part} needs {", ".join(missing)}: pip install "alexq[all]"')


def free_port(address: str, preferred: int = 0) -> int:
    """Return ``preferred`` if nothing listens there on ``address``, else a port that is free now.

    Raises:
        StackError: this machine does not have the address.
    """
    for port in (preferred, 0):
        try:
            return _bindable(address, port)
        except OSError as error:
            if port == 0:
                raise StackError(f"cannot listen on {address}: {error.strerror or error}") from error
    raise AssertionError("unreachable: port 0 returns or raises")


def _bindable(address: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
        bound: int = probe.getsockname()[1]
        return bound
