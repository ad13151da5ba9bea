"""KEDA's object asks for as many workers as there is work."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helpers.kubernetes import needs_kustomize, of_kind, rendered, written


@needs_kustomize
def test_keda_alone_says_how_many_workers_there_are() -> None:
    objects = rendered("overlays/autoscaled")
    scaled = of_kind(objects, "ScaledObject")["alexq-worker"]["spec"]

    assert "replicas" not in of_kind(objects, "Deployment")[scaled["scaleTargetRef"]["name"]]["spec"]
    assert scaled["minReplicaCount"] == 0


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus"
)
def test_workers_are_counted_by_seconds_of_work(tmp_path: Path) -> None:
    scaled = next(each for _, each in written() if each["kind"] == "ScaledObject")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    worker = 'alexq_worker_jobs_total{state="succeeded",instance="%s"}'
    scenarios = [
        # (what there is, the seconds of work that one worker would have)
        ({'alexq_queue_jobs{lane="bulk",state="due"}': "0x60", "alexq_running_jobs": "0x60"}, 0),
        (
            {'alexq_queue_jobs{lane="bulk",state="due"}': "500x60", "alexq_running_jobs": "0x60"},
            10,
        ),  # none has worked
        (
            {
                'alexq_queue_jobs{lane="bulk",state="due"}': "20000x60",
                'alexq_queue_jobs{lane="interactive",state="resting"}': "3000x60",
                "alexq_running_jobs": "1000x60",
                worker % "a": "0+12000x30 360000x30",  # 200/s once, idle now
                worker % "b": "0+6000x60",
            },
            120,
        ),
    ]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {"expr": query, "eval_time": "1h", "exp_samples": [{"labels": "{}", "value": seconds}]}
            ],
        }
        for series, seconds in scenarios
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
