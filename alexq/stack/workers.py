"""Several workers of one host under one supervisor: ``alexq worker --all-devices`` or ``--processes N``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from alexq.stack.environment import environment
from alexq.stack.health import HealthFile
from alexq.stack.log import Log
from alexq.stack.signals import stopped_by_signals
from alexq.stack.supervisor import Child, Supervisor
from alexq_schema.errors import DeviceError
from alexq_schema.settings import Settings

WORKER_READY_S: Final = 180.0
"""Importing torch, reading the weights through their hash and warming up, on a slow disk."""
BEYOND_GRACE_S: Final = 10.0
"""A worker ends by itself soon after its own grace; SIGKILL is for one that cannot."""
_LIST_S: Final = 60.0
"""Importing torch and asking the driver."""


def cuda_devices() -> list[str]:
    """Return this host's CUDA devices as torch names them, asked in a process, as torch is a worker's.

    Raises:
        DeviceError: there is none, or nobody can tell; says what to do.
    """
    argv = [sys.executable, "-m", "alexq_worker.devices"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIST_S, check=True)
    except subprocess.CalledProcessError as error:
        raise DeviceError(f"cannot list the devices: {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"cannot list the devices: torch did not answer within {_LIST_S:.0f} s") from error
    if not (devices := done.stdout.split()):
        raise DeviceError(
            "--all-devices found no CUDA device: `nvidia-smi` shows what the driver sees, "
            "CUDA_VISIBLE_DEVICES hides devices, and torch must be a build for CUDA; for a worker "
            "on the CPU run `alexq worker --device cpu`"
        )
    return devices


def plan(settings: Settings, devices: Sequence[str], processes: int) -> list[Settings]:
    """Return the settings of each worker: ``processes`` of them on each device.

    Ports of metrics follow one another from ``ALEXQ_METRICS_PORT``, each has a health file of its own, and
    the cores' decode threads are shared out unless their number was given.
    """
    places = [device for device in devices for _ in range(processes)]
    threads = settings.decode_threads
    if "decode_threads" not in settings.model_fields_set:
        threads = max(1, threads // len(places))
    planned = []
    for number, device in enumerate(places):
        own: dict[str, object] = {"device": device, "decode_threads": threads}
        if settings.metrics_port:
            own["metrics_port"] = settings.metrics_port + number
        if "{pid}" not in settings.health_file.name:
            file = settings.health_file
            own["health_file"] = file.with_name(f"{file.stem}-{number}{file.suffix}")
        planned.append(settings.model_copy(update=own))
    return planned


def worker_child(settings: Settings, name: str) -> Child:
    """Return a worker with these settings, ready when it has written its health file."""
    health = HealthFile(settings.health_file)
    return Child(
        name=name,
        argv=[sys.executable, "-m", "alexq_worker"],
        env=environment(settings),
        is_ready=health.exists,
        ready_timeout_s=WORKER_READY_S,
        grace_s=settings.stop_grace_s + BEYOND_GRACE_S,
        is_healthy=health.is_fresh,
    )


def run(settings: Settings, devices: Sequence[str], processes: int) -> int:
    """Keep the workers running until SIGINT or SIGTERM, then let all finish; return the exit code.

    One that dies is restarted, with backoff. For the main thread.

    Raises:
        StackError: one did not start; the others are stopped again.
    """
    log = Log(log_format=settings.log_format)
    supervisor = Supervisor(log)
    planned = plan(settings, devices, processes)
    children = [worker_child(own, f"worker-{number}") for number, own in enumerate(planned)]
    with stopped_by_signals(supervisor.request_stop):
        try:
            if supervisor.start_all(children):
                for child, own in zip(children, planned, strict=True):
                    at = f", metrics on port {own.metrics_port}" if own.metrics_port else ""
                    log.say(f"{child.name} is ready on {own.device}{at}")
                supervisor.watch()
            log.say("stopping (Ctrl-C again to hurry)")
        finally:
            codes = supervisor.stop(together=True)
    log.say("stopped")
    return 0 if all(code == 0 for code in codes.values()) else 1
