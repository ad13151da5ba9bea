"""A worker on a machine whose clock is wrong: ``python -m benchmarks.chaos.skewed_worker SECONDS``.

``time-machine`` shifts the wall clock of the whole process; the monotonic clock is left alone.
"""

from __future__ import annotations

import sys
import time

import time_machine


def main() -> int:
    """Shift the clock and run a worker."""
    offset_s = float(sys.argv.pop(1))
    with time_machine.travel(time.time() + offset_s, tick=True):
        from alexq_worker.app import main as work

        return work()


if __name__ == "__main__":
    sys.exit(main())
