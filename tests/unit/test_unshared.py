"""Benchmarks refuse figures of images that were not computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.unshared import require_nothing_shared

LINES = {
    "console": "2026-01-01T00:00:00Z [info     ] batch  batch_id=1 commit_s=0.1 shared={} size=64\n",
    "json": '{{"event": "batch", "size": 64, "shared": {}, "process": "worker"}}\n',
    "a supervisor's": "worker   │ 2026-01-01T00:00:00Z [info] batch batch_id=1 shared={} size=64\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=list(LINES))
def test_a_measurement_with_shared_forwards_is_refused(tmp_path: Path, line: str) -> None:
    log = tmp_path / "worker.log"
    log.write_text("ready\n" + 3 * line.format(0))
    require_nothing_shared(log)
    log.write_text(3 * line.format(0) + line.format(12))
    with pytest.raises(RuntimeError, match="12 jobs were answered by another's forward"):
        require_nothing_shared(log)


def test_a_log_that_tells_nothing_is_no_proof(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("ready\n")
    with pytest.raises(RuntimeError, match="no line of a batch"):
        require_nothing_shared(log)
