"""How fast one HTTP gateway takes images in, and what it adds to the time of one.

    python -m benchmarks.gateway [--rounds 5] [--seconds 4] [--databases sqlite postgresql] [--save]

Taking in: JPEGs of 57 kB on average, each new, with nobody to work them off. *Singles* are ``POST /v1/jobs``
with the image as the body, over connections that stay open; *submissions* are tars of 500 in
``POST /v1/submissions``. The client is threads of this process that write to sockets, and shares the cores
with the gateway, the broker and the database. Kinds alternate; rates are medians of the rounds, CPU time is
the gateway's.

The time of one: on an idle system with one worker whose device is a pause, ``Prefer: wait`` beside
``Producer.classify`` of the SDK, in turns.

Without Redis: what ``POST /v1/jobs`` takes, one at a time, while the broker hangs (SIGSTOP) and when it is
gone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from alexq_producer import Producer
from benchmarks.conditions import conditions
from benchmarks.gateway_client import IN_SUBMISSION, Client, Connection
from benchmarks.images import jpegs
from benchmarks.producing import DISTINCT, Pictures
from benchmarks.scale.services import DATABASES, Services, Workers, stage

RESULT = Path(__file__).parent / "results" / "gateway.json"
SINGLES = (1, 8, 32)
"""Connections of single images at a time."""
SUBMISSIONS = (1, 2)
"""Submissions at a time."""
DEVICE_MS = 2.0
PAUSE_S = (0.01, 0.04)
WARM_UP = 20
TARGETS = {"single": 800.0, "submission": 2_000.0}
"""Images/s on two cores."""
ADDED_MS = 5.0
"""What the gateway may add to the median time of one image."""
WITHOUT_REDIS_MS = 250.0
"""What 99 of 100 accepted images may take while Redis is away."""
GATEWAY = ("alexq_producer.gateway", "gateway_port", "/healthz")


def take_in(servers: Services, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return how fast one gateway takes images in, in each way."""
    ways = [("single", count) for count in SINGLES] + [("submission", count) for count in SUBMISSIONS]
    rates: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    cpu_ms: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    with servers.serving(*GATEWAY) as (port, process):
        client = Client(port)
        for number in range(rounds + 1):
            for way in ways:
                hand_in = client.singles if way[0] == "single" else client.submissions
                before = process.cpu_times()
                images, lasted_s = hand_in(way[1], seconds)
                after = process.cpu_times()
                if number:  # the first warms up
                    used_s = after.user + after.system - before.user - before.system
                    rates[way].append(images / lasted_s)
                    cpu_ms[way].append(1e3 * used_s / images)
    return [
        {
            "database": "sqlite" if servers.postgresql is None else "postgresql",
            "kind": kind,
            "at_a_time": count,
            "images_per_s": {
                "median": round(statistics.median(rates[kind, count]), 1),
                "min": round(min(rates[kind, count]), 1),
                "max": round(max(rates[kind, count]), 1),
            },
            "gateway_cpu_ms_per_image": round(statistics.median(cpu_ms[kind, count]), 3),
        }
        for kind, count in ways
    ]


def time_of_one(servers: Services, count: int) -> dict[str, Any]:
    """Return the times of single images on an idle system, through the SDK and through the gateway."""
    workers = Workers(servers, 1, DEVICE_MS)
    workers.open_gate()
    workers.wait_ready()
    pictures, chance = Pictures(), random.Random(0)
    took_ms: dict[str, list[float]] = {"Producer.classify": [], "Prefer: wait": []}
    with servers.serving(*GATEWAY) as (port, _), Producer(servers.settings) as producer:
        connection = Connection(port)

        def through_gateway(image: bytes) -> str:
            told = connection.post("/v1/jobs", "image/jpeg", image, "Prefer: wait=60\r\n")
            return str(json.loads(told)["state"])

        ways = (
            ("Producer.classify", lambda image: str(producer.classify(image, timeout_s=60).state)),
            ("Prefer: wait", through_gateway),
        )
        for number in range(WARM_UP + count):
            for name, classify in ways:
                [image] = pictures.take(1)
                time.sleep(chance.uniform(*PAUSE_S))
                started = time.perf_counter()
                state = classify(image)
                lasted_s = time.perf_counter() - started
                assert state == "succeeded"
                if number >= WARM_UP:
                    took_ms[name].append(1e3 * lasted_s)
        connection.close()
    workers.stop()
    quantiles = {
        name: [round(float(one), 2) for one in np.quantile(took, [0.5, 0.95])]
        for name, took in took_ms.items()
    }
    return {
        "images": count,
        "device_ms": DEVICE_MS,
        "ms": {name: {"p50": p50, "p95": p95} for name, (p50, p95) in quantiles.items()},
        "added_p50_ms": round(quantiles["Prefer: wait"][0] - quantiles["Producer.classify"][0], 2),
    }


def without_redis(servers: Services, count: int) -> dict[str, dict[str, float]]:
    """Return what an accepted image takes while Redis hangs, and when it is gone, in milliseconds."""
    pictures, took_ms = Pictures(), {"hangs": np.zeros(count), "gone": np.zeros(count)}
    with servers.serving(*GATEWAY) as (port, _):
        connection = Connection(port)
        for image in pictures.take(WARM_UP):
            connection.post("/v1/jobs", "image/jpeg", image)
        os.kill(servers.broker.pid, signal.SIGSTOP)
        for took in took_ms.values():
            for number, image in enumerate(pictures.take(count)):
                started = time.perf_counter()
                connection.post("/v1/jobs", "image/jpeg", image)
                took[number] = 1e3 * (time.perf_counter() - started)
            servers.broker.kill()  # and then it is gone
        connection.close()
    return {
        name: {
            "p50": round(float(np.quantile(took, 0.5)), 2),
            "p99": round(float(np.quantile(took, 0.99)), 2),
            "max": round(float(took.max()), 2),
        }
        for name, took in took_ms.items()
    }


def main() -> None:
    """Measure, print the tables, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round of single images")
    parser.add_argument("--images", type=int, default=200, help="single images on the idle system")
    parser.add_argument("--databases", nargs="+", default=["sqlite"], choices=DATABASES)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    taking: list[dict[str, Any]] = []
    with stage() as where:
        for database in arguments.databases:
            with where.services(database) as servers:
                taking += take_in(servers, arguments.rounds, arguments.seconds)
        with where.services("sqlite") as servers:
            one = time_of_one(servers, arguments.images)
        with where.services("sqlite") as servers:
            away = without_redis(servers, arguments.images)
    show(taking, one)
    show_without_redis(away)
    if arguments.save:
        record = {
            **conditions("fastapi", "uvicorn", "sqlalchemy"),
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "images_per_submission": IN_SUBMISSION,
            "mean_image_bytes": round(statistics.mean(map(len, jpegs(DISTINCT)))),
            "taking_in": taking,
            "time_of_one": one,
            "without_redis_ms": away,
        }
        RESULT.write_text(json.dumps(record, indent=2) + "\n")


def show(taking: Sequence[dict[str, Any]], one: dict[str, Any]) -> None:
    """Print both tables, and whether the targets were reached."""
    console = Console()
    table = Table("", "at a time", "images/s", "min–max", "gateway's CPU, ms an image", title="taking in")
    for row in taking:
        rate = row["images_per_s"]
        table.add_row(
            f"{row['database']} {row['kind']}",
            str(row["at_a_time"]),
            f"{rate['median']:,.0f}",
            f"{rate['min']:,.0f}–{rate['max']:,.0f}",
            f"{row['gateway_cpu_ms_per_image']:.3f}",
        )
    console.print(table)
    for kind, target in TARGETS.items():
        best = max(row["images_per_s"]["median"] for row in taking if row["kind"] == kind)
        console.print(
            f"{kind}: {best:,.0f} images/s, wanted {target:,.0f}: {'kept' if best >= target else 'NOT KEPT'}"
        )
    times = Table("the time of one, ms", "p50", "p95")
    for name, quantiles in one["ms"].items():
        times.add_row(name, f"{quantiles['p50']:.1f}", f"{quantiles['p95']:.1f}")
    console.print(times)
    added = one["added_p50_ms"]
    console.print(
        f"the gateway adds {added} ms, allowed {ADDED_MS:g}: {'kept' if added <= ADDED_MS else 'NOT KEPT'}"
    )


def show_without_redis(away: dict[str, dict[str, float]]) -> None:
    """Print what an accepted image takes without Redis, and whether the target was reached."""
    for name, took in away.items():
        kept = "kept" if took["p99"] <= WITHOUT_REDIS_MS else "NOT KEPT"
        Console().print(
            f"Redis {name}: p50 {took['p50']}, p99 {took['p99']}, max {took['max']} ms, "
            f"allowed {WITHOUT_REDIS_MS:g}: {kept}"
        )


if __name__ == "__main__":
    main()
