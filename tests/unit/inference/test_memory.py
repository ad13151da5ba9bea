"""What a batch costs in page faults: a count, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FAULTS_PER_IMAGE = """
import resource, sys
from pathlib import Path
import numpy as np
from alexq_schema.models import ModelStore
from alexq_worker.inference.engine import Engine
version = ModelStore(Path(sys.argv[1])).find(sys.argv[2])
engine = Engine.load(version, device="cpu", precision="fp32", max_batch=16)
engine.warm_up()
images = engine.new_batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    engine.classify(images)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 2 / len(images))
"""


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(), reason="this system has no huge pages"
)
def test_a_batch_goes_through_huge_pages(store, version):
    def faults(**environment: str) -> float:
        argv = [sys.executable, "-c", FAULTS_PER_IMAGE, str(store.models_dir), version.info.ref]
        answer = subprocess.run(
            argv, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=300
        )
        return float(answer.stdout)

    assert faults() < faults(THP_MEM_ALLOC_ENABLE="0") / 2
