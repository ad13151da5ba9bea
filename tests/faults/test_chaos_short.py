"""The fault campaign's short profile: real processes are killed, paused and starved, and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 1500.0
STOP_S = 20.0


@pytest.mark.slow
@pytest.mark.timeout(1560)
def test_no_fault_of_the_short_campaign_loses_repeats_or_falsifies_a_result(tmp_path: Path) -> None:
    output = tmp_path / "campaign.txt"
    with output.open("wb") as file:
        campaign = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.chaos", "--profile", "short"),
                *("--seed", "1", "--stock", "no", "--light"),
            ],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        code = campaign.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        pytest.fail(f"not done after {LIMIT_S:.0f} s:\n{output.read_text()}")
    finally:
        if campaign.poll() is None:
            campaign.send_signal(signal.SIGINT)  # it ends everything that it started
            try:
                campaign.wait(STOP_S)
            except subprocess.TimeoutExpired:
                campaign.kill()
                campaign.wait()
    assert code == 0, output.read_text()
