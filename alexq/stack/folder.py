"""The data folder: made, checked, and held by one stack at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

from alexq_schema.errors import StackError, StackRunningError

_MIN_FREE_BYTES: Final = 100 * 10**6
"""Below this the broker and the database would soon fail in the middle of work."""


def make_data_folder(data_dir: Path) -> None:
    """Make the data folder, readable by its owner only; an existing one keeps its mode.

    Raises:
        StackError: it cannot be made or written to, or the disk is full.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(data_dir).free
    except OSError as error:
        raise StackError(f"cannot use the data folder {data_dir}: {error.strerror}") from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise StackError(f"cannot write to the data folder {data_dir}: name another with --data-dir")
    if free_bytes < _MIN_FREE_BYTES:
        raise StackError(
            f"only {free_bytes / 10**6:.0f} MB free for the data folder {data_dir}: "
            "free some space, or name another with --data-dir"
        )


class FolderLock:
    """``stack.lock``: held by the one stack that may use a data folder; freed when its process ends."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._fd: int | None = None

    def take(self) -> None:
        """Hold the lock and leave this process's id in it.

        Raises:
            StackRunningError: another process holds it; names its pid.
            StackError: the file cannot be written.
        """
        path = self._data_dir / "stack.lock"
        try:
            fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise StackError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise StackRunningError(
                f"another `alexq up` (pid {pid}) already runs in {self._data_dir}: "
                "stop it, or name another folder with --data-dir"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let the lock go. Idempotent. The file stays: removing it would race with the next holder."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
