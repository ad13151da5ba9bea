"""Whether the dashboard's memory stays flat under an hour of 500 events a second.

    python -m benchmarks.monitor [--events 1800000] [--save]

A dashboard on a real broker is sent what workers send: three events for each message, in bundles, and
heartbeats. They come as fast as it takes them, so an hour's worth is over in minutes; none is left out, which
``flower_events_total`` of its ``/metrics`` proves. Its memory (PSS) is sampled all the while: growth is the
last tenth's median against that of the tenth after Flower's list of tasks, and the heap by which it sorts
their events, have filled up.

Exits 1 when it grew by 3 % or more, or when an event was lost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped,unused-ignore]
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from alexq_monitor.app import TASKS_KEPT
from alexq_schema.ids import new_id
from alexq_schema.names import TASK_CLASSIFY_JOBS
from benchmarks.conditions import conditions
from benchmarks.scale.services import Services, stage

RESULT = Path(__file__).parent / "results" / "monitor.json"
EVENTS_PER_S: Final = 500
HOUR: Final = 3_600 * EVENTS_PER_S
EVENTS: Final = ("task-received", "task-started", "task-succeeded")
WORKERS: Final = 8
AT_ONCE: Final = 90
"""Events in one message, as a busy worker bundles them."""
AHEAD: Final = 5_000
"""Events that may be on their way: Redis cuts off a listener that falls far behind. Then all are waited for:
redis-py gives its read buffer back only when that is empty, as it is again and again at 500 a second."""
HEAP: Final = 4
"""Celery's ``State.heap_multiplier``."""
MAX_GROWTH: Final = 0.03


def seen(url: str, kinds: Collection[str] = EVENTS) -> int:
    """Return how many events of these kinds the dashboard has taken."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as response:
        families = text_string_to_metric_families(response.read().decode())
    return int(
        sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "flower_events_total" and sample.labels["type"] in kinds
        )
    )


def send(servers: Services, url: str, process: psutil.Process, events: int) -> list[tuple[int, int]]:
    """Send the events; return (events taken, PSS in bytes) again and again."""
    app = Celery(broker=servers.settings.broker_url, set_as_current=False)
    samples: list[tuple[int, int]] = []
    sent = caught_up = 0

    def sample() -> int:
        samples.append((seen(url), process.memory_full_info().pss))
        return samples[-1][0]

    with app.connection_for_write() as connection:
        workers = [
            app.events.Dispatcher(
                connection, hostname=f"celery@gpu-{number}", buffer_group={"task"}, buffer_limit=AT_ONCE
            )
            for number in range(WORKERS)
        ]

        def is_heard() -> int:
            workers[0].send("task-sent", uuid=str(new_id()), name=TASK_CLASSIFY_JOBS)
            workers[0].flush()
            return seen(url, ("task-sent",))

        def catch_up() -> None:
            until = time.monotonic() + 60
            while (taken := sample()) < sent:
                if time.monotonic() > until:
                    raise SystemExit(f"{sent - taken:,} of {sent:,} events were lost")

        servers.stage.processes.wait_for(is_heard, 60.0, what="the dashboard listens")  # it answers before
        while sent < events:
            worker = workers[sent // AT_ONCE % WORKERS]
            for _ in range(AT_ONCE // len(EVENTS)):
                do_one(worker)
            worker.send("worker-heartbeat", freq=2.0, active=0, processed=sent)
            sent += AT_ONCE
            if sent - caught_up >= AHEAD:
                catch_up()
                caught_up = sent
        catch_up()
    return samples


def do_one(worker: Any) -> None:
    """Send what a worker sends of one message."""
    task_id = str(new_id())
    kwargs = f"64 jobs of submission {new_id()}"
    worker.send("task-received", uuid=task_id, name=TASK_CLASSIFY_JOBS, args="()", kwargs=kwargs, retries=0)
    worker.send("task-started", uuid=task_id)
    result = "{'jobs': 64, 'claimed': 64, 'succeeded': 64}"
    worker.send("task-succeeded", uuid=task_id, result=result, runtime=0.4)


def median_between(samples: Sequence[tuple[int, int]], first: float, last: float) -> float:
    """Return the median PSS of the samples between two numbers of events."""
    return statistics.median(pss for taken, pss in samples if first <= taken <= last)


def main() -> None:
    """Measure, print, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=HOUR, help="task events; an hour of 500/s by default")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    full = HEAP * TASKS_KEPT * len(EVENTS)
    if arguments.events < 2 * full:
        parser.error(f"--events: give at least {2 * full:,}: Flower's list of tasks fills up first")
    started = time.monotonic()
    with (
        stage() as where,
        where.services("sqlite") as servers,
        servers.serving("alexq_monitor", "monitor_port", "/healthcheck") as (port, process),
    ):
        empty = process.memory_full_info().pss
        samples = send(servers, f"http://127.0.0.1:{port}", process, arguments.events)
    lasted_s = time.monotonic() - started
    tenth = arguments.events / 10
    settled, last = (median_between(samples, at, at + tenth) for at in (full, arguments.events - tenth))
    growth = last / settled - 1
    Console().print(
        f"{arguments.events:,} events in {lasted_s:,.0f} s, none lost; memory {empty / 1e6:.0f} MB empty, "
        f"{settled / 1e6:.0f} MB with a full list of tasks, {last / 1e6:.0f} MB at the end: {growth:+.1%}, "
        f"allowed {MAX_GROWTH:+.0%}"
    )
    if arguments.save:
        record = {
            **conditions("flower", "celery", "tornado"),
            "events": arguments.events,
            "seconds": round(lasted_s),
            "mb": {
                "empty": round(empty / 1e6, 1),
                "settled": round(settled / 1e6, 1),
                "last": round(last / 1e6, 1),
            },
            "growth": round(growth, 4),
            "samples": [[taken, round(pss / 1e6, 1)] for taken, pss in samples[:: len(samples) // 60 + 1]],
        }
        RESULT.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(growth >= MAX_GROWTH)


if __name__ == "__main__":
    main()
