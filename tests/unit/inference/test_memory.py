"""What a batch costs in page faults: whether Linux is asked for huge pages, in a process of its own.

Whether there are any to be had is the machine's affair: other programs may hold or fragment its memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FLAGS_OF_A_BATCH = """
import re, sys
from pathlib import Path
from alexq_schema.models import ModelStore
from alexq_worker.inference.engine import Engine
version = ModelStore(Path(sys.argv[1])).find(sys.argv[2])
batch = Engine.load(version, device="cpu", precision="fp32", max_batch=64).new_batch()
middle = batch.ctypes.data + batch.nbytes // 2
inside = False
for line in Path("/proc/self/smaps").read_text().splitlines():
    if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
        inside = int(bounds[1], 16) <= middle < int(bounds[2], 16)
    elif inside and line.startswith("VmFlags:"):
        print(line)
"""


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(), reason="this system has no huge pages"
)
@pytest.mark.parametrize(("environment", "asks"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)])
def test_a_batch_asks_for_huge_pages(store, version, environment, asks):
    argv = [sys.executable, "-c", FLAGS_OF_A_BATCH, str(store.models_dir), version.info.ref]
    answer = subprocess.run(
        argv, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert ("hg" in answer.stdout.split()) is asks, answer.stdout
