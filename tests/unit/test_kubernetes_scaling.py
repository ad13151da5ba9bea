"""KEDA's object asks for as many workers as the dashboard wants."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.kubernetes import needs_kustomize, of_kind, rendered, written

WANTED = "alexq_wanted_workers"


@needs_kustomize
def test_keda_alone_says_how_many_workers_there_are() -> None:
    objects = rendered("overlays/autoscaled")
    scaled = of_kind(objects, "ScaledObject")["alexq-worker"]["spec"]

    assert "replicas" not in of_kind(objects, "Deployment")[scaled["scaleTargetRef"]["name"]]["spec"]
    assert scaled["minReplicaCount"] == 0
    assert scaled["triggers"][0]["metadata"]["threshold"] == "1", "the query is a number of workers"


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus"
)
def test_the_dashboards_number_is_asked_for_of_one_queue(tmp_path: Path) -> None:
    path, scaled = next(each for each in written() if each[1]["kind"] == "ScaledObject")
    default = scaled["spec"]["triggers"][0]["metadata"]["query"]
    marker = "# For a worker of a queue with a name: "
    [vip] = [line.removeprefix(marker) for line in path.read_text().splitlines() if line.startswith(marker)]
    tests = [
        asked({WANTED: "3x60", f'{WANTED}{{queue="vip"}}': "5x60"}, {default: 3, vip: 5}),
        asked({WANTED: "3x60"}, {default: 3, vip: 0}),  # no job and no worker there: it is not told
        asked({WANTED: "0x60"}, {default: 0, vip: 0}),
        asked({}, {default: None, vip: None}),  # the dashboard is away, and KEDA keeps what there is
    ]
    (tmp_path / "scaling.yml").write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run(
        ["promtool", "test", "rules", "scaling.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert scaled["spec"]["triggers"][0]["metadata"]["ignoreNullValues"] == "false"


def asked(series: dict[str, str], expected: dict[str, int | None]) -> dict[str, Any]:
    """Return the test of queries on ``series``; None expects no answer."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "1h",
                "exp_samples": [] if number is None else [{"labels": "{}", "value": number}],
            }
            for query, number in expected.items()
        ],
    }
