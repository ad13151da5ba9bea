"""How many jobs/s one broker and one database carry, as workers, backlog and table grow.

    python -m benchmarks.scale [--quick] [--save] [--databases sqlite postgresql] [--device-ms 5]

Workers are the real ones with a pause for a device. ``bulk``, ``single`` and ``door`` run flat out on a
device that takes ``--device-ms`` for a batch; ``paced`` is bulk on one that takes 64 ms, so that a worker
asks for 1,000 jobs/s and many fit the machine. Backlogs are there before the workers begin; rates are
those of the middle of a run. Then one worker with a held backlog of 1,000 and of 200,000, and with
1,000,000 ended jobs in the table: these are compared with each other, so they take turns, and the median of
``--rounds`` counts. A job that did not succeed exactly once ends the program.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from rich.console import Console

from benchmarks.chaos.servers import PostgresBinaries
from benchmarks.scale import report
from benchmarks.scale.measure import Plan, measure
from benchmarks.scale.services import DATABASES, stage

PACED_MS = 64.0
FULL = {"bulk": 60_000, "single": 8_000, "door": 3_000}
QUICK = {"bulk": 6_000, "single": 800, "door": 400}


def main() -> None:
    """Measure, print the table, write the result."""
    arguments = parse()
    plans = list(quick(arguments) if arguments.quick else full(arguments))
    console = Console(stderr=True)
    measured = []
    with stage() as where:
        for number, plan in enumerate(plans, start=1):
            row = measure(where, plan)
            measured.append((plan, row))
            console.print(f"{number}/{len(plans)} {plan}: {row['jobs_per_s']:,.0f} jobs/s")
        with where.services("sqlite") as servers:
            broker = str(servers.broker.info("server").get("valkey_version", "unknown"))
    rows = report.medians(measured)
    report.show(rows, Console(width=160))
    if arguments.save:
        report.save(
            rows, broker, PostgresBinaries().run("postgres", "--version").split()[-1], arguments.device_ms
        )


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer jobs and workers: about a minute")
    parser.add_argument("--save", action="store_true", help="write results/scale.json and scale.png")
    parser.add_argument("--databases", nargs="+", default=list(DATABASES), choices=DATABASES)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--kinds", nargs="+", default=list(report.TITLES), choices=list(report.TITLES))
    parser.add_argument("--device-ms", type=float, default=5.0)
    parser.add_argument(
        "--hold-s", type=float, default=15.0, help="time a held backlog is measured; 0: leave out"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the held backlogs, which take turns")
    return parser.parse_args()


def full(arguments: argparse.Namespace) -> Iterator[Plan]:
    """Yield every plan."""
    for database in arguments.databases:
        for kind in arguments.kinds:
            for workers in arguments.workers:
                if kind == "paced":
                    yield Plan(database, "bulk", workers, PACED_MS, 10_000 * workers)
                else:
                    yield Plan(database, kind, workers, arguments.device_ms, FULL[kind])
        if arguments.hold_s:
            for backlog, ended in arguments.rounds * ((1_000, 0), (200_000, 0), (1_000, 1_000_000)):
                yield Plan(
                    database, "bulk", 1, arguments.device_ms, backlog, hold_s=arguments.hold_s, ended=ended
                )


def quick(arguments: argparse.Namespace) -> Iterator[Plan]:
    """Yield a few small ones."""
    for database in arguments.databases:
        for kind, jobs in QUICK.items():
            yield Plan(database, kind, 1, arguments.device_ms, jobs)
        yield Plan(database, "bulk", 2, arguments.device_ms, QUICK["bulk"])
        for backlog, ended in ((1_000, 0), (10_000, 0), (1_000, 50_000)):
            yield Plan(database, "bulk", 1, arguments.device_ms, backlog, hold_s=2.0, ended=ended)


if __name__ == "__main__":
    main()
