"""Predictions as they are kept: JSON that any reader understands, whatever the labels hold."""

from __future__ import annotations

import json

import pytest

from alexq_schema.db import queries
from alexq_schema.db.session import Database
from alexq_schema.work import PredictionWriter
from tests.helpers.system import System, success

LABELS = ['say "cat"', "C:\\cat\n", "猫", "{index}"]


def test_what_is_written_is_the_json_of_its_values() -> None:
    written = PredictionWriter(LABELS).write([2, 0, 1, 3], [0.5, 1 / 3, 1e-30, 0.0])

    assert (written.label, written.probability) == ("猫", 0.5)
    assert json.loads(written.json) == [
        {"index": index, "label": LABELS[index], "probability": probability}
        for index, probability in ((2, 0.5), (0, 1 / 3), (1, 1e-30), (3, 0.0))
    ]


@pytest.mark.parametrize("label", [*LABELS, "a\0b", "caf\udce9", "x" * 2_000])
def test_any_label_can_be_stored_and_read(database: Database, label: str) -> None:
    system = System(database)
    [claim] = system.claim(system.queue(1))

    system.commit([success(claim, label)])

    with database.read() as connection:
        [job] = queries.finished(connection, [claim.job_id])
    assert job.label == label.replace("\0", "\N{REPLACEMENT CHARACTER}").replace("\udce9", "?")
    assert [(p.rank, p.index, p.probability) for p in job.predictions] == [(1, 0, 0.5)]
