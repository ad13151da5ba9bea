"""How long the dashboard's pages take with a million jobs in the database.

    python -m benchmarks.dashboard [--jobs 1000000] [--times 40] [--databases sqlite postgresql] [--save]

A database holds a week of history: a job in twenty dead, one in a hundred failed, a thousand labels,
submissions of a thousand. The dashboard answers over HTTP as it does to browsers, one request after another.
Overview is asked for less often than it looks anew (every two seconds), so that nothing is answered from
memory, and not before its week of counts has been read, which is timed apart. Batches are read anew every ten
seconds; its largest figure is such a reading.

Exits 1 when 95 of 100 requests for a page took longer than wanted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from alexq_monitor.overview import KEEP_S
from alexq_schema.db.session import Database
from benchmarks.conditions import conditions
from benchmarks.history import MODEL, SUBMISSION, insert_week
from benchmarks.scale.services import DATABASES, Services, stage

RESULT = Path(__file__).parent / "results" / "dashboard.json"
RESULTS_MS: Final = 300.0
OTHERS_MS: Final = 500.0
READ_S: Final = 600.0
STILL_READ = "is still being read"


def pages(submission: UUID, job: UUID) -> dict[str, str]:
    """Return what is asked for, by name."""
    day = (datetime.now(UTC) - timedelta(days=3)).date()
    return {
        "overview": "/overview",
        "results": "/results",
        "results, half way back": f"/results?older={job}",
        "results of a state": "/results?state=failed",
        "results of a label": "/results?label=label+77",
        "results of a label, at least 90 %": "/results?label=label+77&min=90",
        "results of a model": f"/results?model={MODEL.name}/{MODEL.version}",
        "results of no model": "/results?model=nobody/v1",
        "results of a tenant": "/results?tenant=shop",
        "results of a day, failed": f"/results?state=failed&after={day}&before={day + timedelta(days=1)}",
        "results of a submission": f"/results?submission={submission}",
        "results, at least 100 %": "/results?min=100",
        "one result": f"/results/{job}",
        "submissions": "/submissions",
        "one submission": f"/submissions/{submission}",
        "batches": "/batches",
        "dead jobs": "/dead",
        "dead jobs of one thing": "/dead?code=image_lost",
        "models": "/models",
    }


def fetch(url: str) -> tuple[float, str]:
    """Return how many milliseconds a page took, and it."""
    started = time.perf_counter()
    with urllib.request.urlopen(url, timeout=60) as response:
        page: str = response.read().decode()
    return (time.perf_counter() - started) * 1_000, page


def measure(servers: Services, jobs: int, times: int) -> dict[str, Any]:
    """Fill the database, ask for every page ``times`` times; return milliseconds by page."""
    database = Database(servers.settings.database_url)
    started = time.monotonic()
    with database.begin() as connection:
        submission, job = insert_week(connection, jobs)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    database.close()
    inserted_s = time.monotonic() - started
    with servers.serving("alexq_monitor", "monitor_port", "/healthcheck") as (port, _):
        url = f"http://127.0.0.1:{port}"
        started = time.monotonic()
        while STILL_READ in fetch(f"{url}/overview")[1]:
            if time.monotonic() - started > READ_S:
                raise SystemExit(f"the week of counts was not read within {READ_S:.0f} s")
            time.sleep(0.2)
        read_s = time.monotonic() - started
        taken: dict[str, list[float]] = {name: [] for name in pages(submission, job)}
        for _ in range(times):
            for name, path in pages(submission, job).items():
                if name == "overview":
                    time.sleep(KEEP_S)
                taken[name].append(fetch(url + path)[0])
    return {
        "filled_in_s": round(inserted_s),
        "week_read_in_s": round(read_s, 1),
        "ms": {name: _summary(ms) for name, ms in taken.items()},
    }


def _summary(ms: list[float]) -> dict[str, float]:
    ordered = sorted(ms)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"p50": round(statistics.median(ms), 1), "p95": round(p95, 1), "max": round(ordered[-1], 1)}


def too_slow(results: Mapping[str, Any]) -> list[str]:
    """Return which pages took longer than wanted, and how long."""
    return [
        f"{name} on {database}: {ms['p95']} ms"
        for database, result in results.items()
        for name, ms in result["ms"].items()
        if ms["p95"] > (RESULTS_MS if name.startswith("results") else OTHERS_MS)
    ]


def main() -> None:
    """Measure, print, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000, help=f"at least {2 * SUBMISSION}")
    parser.add_argument("--times", type=int, default=40, help="requests for each page")
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=list(DATABASES))
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    results = {}
    with stage() as where:
        for database in arguments.databases:
            with where.services(database) as servers:
                results[database] = measure(servers, arguments.jobs, arguments.times)
    for database, result in results.items():
        title = f"{database}: {arguments.jobs:,} jobs, week of counts read in {result['week_read_in_s']} s"
        table = Table("page", "p50 ms", "p95 ms", "max ms", title=title)
        for name, ms in result["ms"].items():
            table.add_row(name, *(f"{one:,.0f}" for one in ms.values()))
        Console().print(table)
    if arguments.save:
        record = {**conditions("flower", "sqlalchemy"), "jobs": arguments.jobs, "databases": results}
        RESULT.write_text(json.dumps(record, indent=2) + "\n")
    if slow := too_slow(results):
        sys.exit(f"slower than wanted: {'; '.join(slow)}")


if __name__ == "__main__":
    main()
