"""The plain install: quick to import, without the worker's packages, and of a known shape."""

from __future__ import annotations

import subprocess
import sys

import alexq

BLOCKED = (
    "torch",
    "torchvision",
    "fastapi",
    "uvicorn",
    "flower",
    "PIL",
    "numpy",
    "obstore",
    "opentelemetry",
    "safetensors",
    "structlog",
)

IMPORT_WITH_THE_EXTRAS_BLOCKED = f"""
import sys, time
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError(name + " is not part of the plain install")
sys.meta_path.insert(0, Blocked())
started = time.process_time()
import alexq
imported_s = time.process_time() - started
for name in alexq.__all__:
    getattr(alexq, name)
import alexq.cli, alexq.cli.jobs, alexq.celery_backend
print(imported_s)
"""


def test_everything_public_is_there() -> None:
    assert sorted(alexq.__all__) == [
        "AlexqError",
        "AsyncClient",
        "Client",
        "FailedError",
        "ImageError",
        "Job",
        "JobState",
        "Prediction",
        "Producer",
        "RejectedError",
        "Rejection",
        "Retries",
        "Settings",
        "Submission",
        "Timeouts",
        "WaitTimeoutError",
    ]
    assert all(getattr(alexq, name) is not None for name in alexq.__all__)


def test_the_plain_install_needs_no_extra_and_imports_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WITH_THE_EXTRAS_BLOCKED], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5


def test_import_does_nothing() -> None:
    """No thread, no socket, no heavy module."""
    program = "import alexq, sys, threading; print(threading.active_count(), 'celery' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "False"]
