"""What a worker's row says of memory."""

from __future__ import annotations

import sys

import pytest

from alexq_schema.db.workers import MemoryUse
from alexq_worker.memory_use import memory_use


def test_a_device_of_its_own_is_as_full_as_everybody_on_it_makes_it() -> None:
    kinds = {"total": 24_000, "free": 9_000, "reserved": 6_000, "allocated": 5_000}
    assert memory_use(kinds) == MemoryUse(used_bytes=15_000, total_bytes=24_000)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_on_the_cpu_it_is_this_process_among_the_host_s() -> None:
    before = memory_use({})
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    after = memory_use({})
    assert before is not None
    assert after is not None
    assert 48 << 20 < after.used_bytes - before.used_bytes < 96 << 20
    assert after.total_bytes == before.total_bytes > after.used_bytes
