"""The alert rules fire when they should, and each says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"
RUNBOOK = ROOT / "docs/howto/alerts.md"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there: apt-get install prometheus"
)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(
    *arguments: str, folder: Path = FOLDER, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], cwd=folder, input=stdin, capture_output=True, text=True, check=False
    )


@needs_promtool
def test_each_alert_fires_when_it_should_and_no_other_does() -> None:
    done = promtool("test", "rules", "alerts_test.yml")

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_configuration() -> None:
    done = promtool("check", "config", "--lint-fatal", "prometheus.yml")

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_what_an_alert_says_can_be_written(tmp_path: Path) -> None:
    """Expecting that none fires makes promtool show each that does, its texts filled in."""
    scenarios = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())
    for scenario in scenarios["tests"]:
        scenario["alert_rule_test"] = [
            {"eval_time": check["eval_time"], "alertname": alertname, "exp_alerts": []}
            for check in scenario.pop("promql_expr_test")
            for sample in check["exp_samples"]
            for alertname in re.findall(r'alertname="(\w+)"', sample["labels"])
        ]
    (tmp_path / "shown.yml").write_text(yaml.safe_dump(scenarios))
    shutil.copy(FOLDER / "alerts.yml", tmp_path)

    shown = promtool("test", "rules", "shown.yml", folder=tmp_path)

    output = shown.stdout + shown.stderr
    assert set(re.findall(r'alertname="(\w+)"', output)) == {rule["alert"] for rule in rules()}
    assert "error expanding template" not in output
    assert "<no value>" not in output
    assert "6% of the work" in output


def test_each_alert_has_scenarios_a_section_and_texts() -> None:
    names = [rule["alert"] for rule in rules()]

    assert sorted(set(names)) == sorted(names)
    assert set(re.findall(r'alertname="(\w+)"', (FOLDER / "alerts_test.yml").read_text())) == set(names)
    assert re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE) == names
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "action", "runbook"}
        assert all(
            text.strip().endswith((".", ".)"))
            for key, text in rule["annotations"].items()
            if key != "runbook"
        )
        assert rule["annotations"]["runbook"] == f"docs/howto/alerts.md#{rule['alert'].lower()}"
