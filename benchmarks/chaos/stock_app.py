"""What one would write with Celery and Redis alone, configured as favourably as Celery allows.

    python -m benchmarks.chaos.stock_app [--failpoint popped --after N]   (a prefork worker)

``CHAOS_BROKER`` is the Redis URL, ``CHAOS_EXECUTIONS`` a file that gets one line an execution,
``CHAOS_POISON`` the image number that kills its process.
"""

from __future__ import annotations

import argparse
import os
import signal
import time

from celery import Celery

VISIBILITY_S = 10
TASK_S = 0.005

app = Celery("stock", broker=os.environ.get("CHAOS_BROKER"), backend=os.environ.get("CHAOS_BROKER"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
)


@app.task(name="stock.classify")  # type: ignore[untyped-decorator]
def classify(number: int, image: int) -> int:
    """Stand for a classification: write down that it ran, sleep, return the image's number."""
    descriptor = os.open(os.environ["CHAOS_EXECUTIONS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    if image == int(os.environ.get("CHAOS_POISON", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(TASK_S)
    return image


def main() -> None:
    """Run a prefork worker, with a failpoint if told so."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--failpoint", choices=["popped"])
    parser.add_argument("--after", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.failpoint:
        from kombu.transport.redis import QoS

        from benchmarks.chaos.faulty_worker import Trap, before

        before(QoS, "append", Trap(arguments.after))  # popped, and ``unacked`` does not have it yet
    app.worker_main(
        ["worker", "-P", "prefork", "-c", "2", "-l", "WARNING", "--without-gossip", "--without-mingle"]
    )


if __name__ == "__main__":
    # Under its real name: the pool's children and the submitter know the task by it.
    from benchmarks.chaos import stock_app

    stock_app.main()
