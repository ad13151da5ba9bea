"""Run the fault campaign.

    python -m benchmarks.chaos --profile short|full [--seed N] [--scenario NAME …] [--save]

Scenarios run four at a time (two in the full profile): most of them wait for a timeout most of the time.
Exit code 1: something was lost, done twice or wrong, or a scenario's promise was not kept.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from rich.console import Console

from alexq_schema import migrations
from benchmarks.chaos import audit, reference, report, stock
from benchmarks.chaos.campaign import Campaign, Row
from benchmarks.chaos.nursery import WORKER, Nursery
from benchmarks.chaos.processes import InterruptedCampaignError, Processes
from benchmarks.chaos.scenarios import SCENARIOS, Scenario
from benchmarks.chaos.scene import Scene, failed_row
from benchmarks.chaos.servers import Broker, PostgresBinaries, PostgreSQL

BUSY = "benchmarks.chaos.busy_device"
Work = tuple[str, Callable[[], Row]]


def main() -> int:
    """Run what the command line says; return the exit code."""
    arguments = parse()
    processes = Processes()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: processes.stopping.set())
    console = Console(stderr=True)
    began = time.monotonic()
    # Readable by the user that PostgreSQL runs as.
    folder = Path(tempfile.mkdtemp(prefix="alexq-chaos-"))
    folder.chmod(0o755)
    console.print(f"logs and databases: {folder}")
    try:
        campaign = prepare(folder, processes, arguments)
        rows = run(campaign, work(campaign, arguments), arguments.lanes, console)
        about = report.machine(
            redis_version(campaign), campaign.postgres.run("postgres", "--version").split()[-1]
        )
    except InterruptedCampaignError:
        processes.end_all()
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    finally:
        processes.end_all()
    duration_s = time.monotonic() - began
    result = report.record(rows, about, profile=arguments.profile, seed=arguments.seed, duration_s=duration_s)
    report.show(rows, Console(width=150))
    if arguments.save:
        report.save(rows, result)
    console.print(f"{duration_s:.0f} s altogether, seed {arguments.seed}")
    is_good = all(row.is_good for row in rows if row.system == "alexq")
    if is_good and not arguments.keep:  # else its logs say more than the report
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_good else 1


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", choices=["short", "full"], default="short")
    parser.add_argument("--seed", type=int, default=0, help="decides victims, times and sizes")
    parser.add_argument("--scenario", nargs="+", choices=sorted(SCENARIOS), metavar="NAME", help=names())
    parser.add_argument("--jobs-scale", type=float, default=1.0, help="multiplies the numbers of jobs")
    parser.add_argument("--lanes", type=int, help="scenarios at a time (short: 4, full: 2)")
    parser.add_argument(
        "--stock", choices=["yes", "no", "only"], help="compare with stock Celery (default: yes)"
    )
    parser.add_argument(
        "--light", action="store_true", help="a small network on a device that is busy, in AlexNet's place"
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs although all is well")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/chaos.json and .md")
    arguments = parser.parse_args()
    if arguments.light and arguments.save:
        parser.error("what is recorded is AlexNet's: --save goes without --light")
    arguments.lanes = arguments.lanes or (4 if arguments.profile == "short" else 2)
    arguments.stock = arguments.stock or ("no" if arguments.scenario else "yes")
    return arguments


def names() -> str:
    """Return the scenarios, for the help text."""
    return "only these:\n" + "\n".join(f"{one.name}: {one.about}" for one in SCENARIOS.values())


def prepare(folder: Path, processes: Processes, arguments: argparse.Namespace) -> Campaign:
    """Make what all scenarios share: weights, images, expected answers, empty databases to copy."""
    answers = reference.prepare(folder, is_light=arguments.light)
    binaries = PostgresBinaries()
    sqlite = folder / "template.db"
    make_tables(f"sqlite:///{sqlite}")
    server = PostgreSQL(processes, binaries, binaries.make_template(folder / "cluster"), folder / "postgres")
    server.start()
    make_tables(server.url)
    server.stop()
    return Campaign(
        folder=folder,
        answers=answers,
        postgres=binaries,
        sqlite_template=sqlite,
        postgres_template=server.data,
        processes=processes,
        profile=arguments.profile,
        seed=arguments.seed,
        jobs_scale=arguments.jobs_scale,
        nursery=Nursery(processes, folder / "nursery.log", (*WORKER, BUSY) if arguments.light else WORKER),
    )


def make_tables(database_url: str) -> None:
    """Migrate a database and install the audit in it."""
    migrations.upgrade(database_url)
    engine = audit.engine(database_url)
    with engine.begin() as connection:
        audit.install(connection)


def work(campaign: Campaign, arguments: argparse.Namespace) -> list[Work]:
    """Return what is to be run, the longest first."""
    chosen = [SCENARIOS[name] for name in arguments.scenario or SCENARIOS]
    chosen.sort(key=lambda one: -one.cost_s)
    todo: list[Work] = []
    if arguments.stock != "only":
        todo += [(one.name, lambda one=one: run_one(campaign, one)) for one in chosen]  # type: ignore[misc]
    if arguments.stock != "no":
        compared = [name for name in stock.BODIES if not arguments.scenario or name in arguments.scenario]
        todo += [(f"stock {name}", lambda name=name: run_stock(campaign, name)) for name in compared]  # type: ignore[misc]
    return todo


def run_one(campaign: Campaign, one: Scenario) -> Row:
    """Run one scenario; whatever happens becomes a row."""
    scene: Scene | None = None
    try:
        scene = one.stage(campaign)
        one.body(scene)
        return scene.close()
    except InterruptedCampaignError:
        raise
    except Exception as error:
        if campaign.processes.stopping.is_set():
            raise InterruptedCampaignError from error
        row = failed_row(one.name, error, scene)
        row.dump = f"{traceback.format_exc()}\n{row.dump}"
        return row


def run_stock(campaign: Campaign, name: str) -> Row:
    """Run one comparison; whatever happens becomes a row."""
    try:
        return stock.run(campaign, name)
    except InterruptedCampaignError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        row = Row(name, system="celery", broken=[f"{type(error).__name__}: {error}"])
        row.dump = traceback.format_exc()
        return row


def run(campaign: Campaign, todo: list[Work], lanes: int, console: Console) -> list[Row]:
    """Run everything, so many at a time, and return the rows in the order of the report."""
    waiting: SimpleQueue[Work] = SimpleQueue()
    for item in todo:
        waiting.put(item)
    rows: dict[str, Row] = {}

    def lane() -> None:
        while not campaign.processes.stopping.is_set():
            try:
                name, call = waiting.get_nowait()
                row = call()
            except (Empty, InterruptedCampaignError):
                return
            rows[name] = row
            verdict = "" if row.system != "alexq" else "ok" if row.is_good else "FAILED"
            console.print(f"{name:32} {row.duration_s:5.0f} s  {verdict}")

    threads = [threading.Thread(target=lane, name=f"lane-{number}") for number in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)  # so that signals are handled
    if campaign.processes.stopping.is_set():
        raise InterruptedCampaignError
    order = [*SCENARIOS, *(f"stock {name}" for name in stock.BODIES)]
    return [rows[name] for name in order if name in rows]


def redis_version(campaign: Campaign) -> str:
    """Return the version of the server that stands for Redis."""
    broker = Broker(campaign.processes, campaign.folder / "version")
    broker.start()
    info = broker.info("server")
    return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"


if __name__ == "__main__":
    sys.exit(main())
