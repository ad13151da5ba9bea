"""Become a command that the kernel kills when its parent dies: ``launch.py PARENT_PID COMMAND [ARG…]``.

Linux only. The supervisor starts its children through this file rather than through Popen's
``preexec_fn``, which runs Python between fork and exec in a process that has threads and can
deadlock there. It runs with ``-I -S`` and imports nothing of alexq; it costs about 20 ms.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""``prctl(2)``: the signal this process gets when the thread that made it ends. Survives exec."""


def main() -> None:
    """Ask for SIGKILL at the parent's death, then exec the command."""
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:  # it died before prctl could know
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - argv comes from the supervisor
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
