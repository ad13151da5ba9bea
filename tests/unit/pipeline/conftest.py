"""A pipeline on hand-made parts, for every test of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.pipeline.test_pipeline import Images, Rig


@pytest.fixture(params=["local", "remote"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A started pipeline, its images on this host or over a network; afterwards it keeps nothing."""
    rig = Rig(Images(is_remote=request.param == "remote"))
    rig.pipeline.start()
    yield rig
    rig.decoder.may_go.set()
    rig.engine.may_go.set()
    rig.may_load.set()
    assert rig.pipeline.stop(60)
    assert rig.fatal == []
    assert rig.pipeline._flow.in_flight == 0
    assert rig.pipeline._flow.sharing._leaders == {}
