"""When a worker switches to the active version, when it refuses it, and when it tries again."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from alexq_schema.db import workers
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Worker
from alexq_schema.errors import DatabaseUnavailableError, ModelInvalidError
from alexq_schema.ids import new_id
from alexq_schema.job import ModelRef
from alexq_worker.metrics import Metrics
from alexq_worker.pipeline.residents import Resident, Residents
from alexq_worker.serving import RETRY_S, Following


class Engine:
    batch_limit = 4
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Store:
    active: str | None = "m/1"
    stamp: int = 0

    def active_ref(self) -> str | None:
        return self.active

    def active_stamp(self) -> int:
        return self.stamp

    def activate(self, ref: str) -> None:
        self.active, self.stamp = ref, self.stamp + 1


@dataclass
class Loader:
    """Loads what is not in ``wrong``."""

    database: Database
    store: Store = field(default_factory=Store)
    wrong: dict[str, Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def load(self, ref: str) -> Resident:
        self.asked.append(ref)
        if ref in self.wrong:
            raise self.wrong[ref]
        name, _, version = ref.partition("/")
        model = ModelRef(name=name, version=version, precision="fp32", trained=True)
        with self.database.begin() as connection:
            model_id = workers.register_model(connection, model, "0" * 64)
        engine: Any = Engine()
        nothing: Any = None
        return Resident(ref, model_id, decoder=nothing, engine=engine, labels=["a"], max_batch=4)


class Rig:
    def __init__(self, database: Database) -> None:
        self.now_s = 100.0
        self.database = database
        self.loader: Any = Loader(database)
        self.residents = Residents(self.loader.load("m/1"), self.loader.load, 1)
        self.worker_id: UUID = new_id()
        self.metrics = Metrics()
        self.switched: list[Any] = []
        with database.begin() as connection:
            workers.register(
                connection,
                self.worker_id,
                host="h",
                pid=1,
                device="cpu",
                model_id=self.residents.active.model_id,
            )
        self.following = Following(
            self.loader,
            self.residents,
            worker_id=self.worker_id,
            database=database,
            on_switch=self.switched.append,
            metrics=self.metrics,
            clock=lambda: self.now_s,
        )
        self.loader.asked.clear()

    def row(self) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(Worker.__table__)).one()

    def count(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "alexq_worker_model_switches_total", {"outcome": outcome}
        )


@pytest.fixture
def rig(database: Database) -> Rig:
    return Rig(database)


def test_a_version_that_is_activated_takes_over_and_the_row_says_so(rig: Rig) -> None:
    old = rig.residents.active
    rig.following.look()
    assert rig.loader.asked == []

    rig.loader.store.activate("m/2")
    rig.following.look()
    rig.following.look()

    assert rig.loader.asked == ["m/2"]
    assert rig.residents.active.ref == "m/2"
    assert rig.switched == [rig.residents.active]
    assert rig.row().model_id == rig.residents.active.model_id != old.model_id
    assert old.engine.is_closed  # type: ignore[attr-defined]
    assert (rig.count("switched"), rig.count("refused")) == (1, 0)


@pytest.mark.parametrize("error", [ModelInvalidError("tampered with"), RuntimeError("a bug in a library")])
def test_a_version_that_cannot_be_used_is_refused_and_tried_again_later(rig: Rig, error: Exception) -> None:
    rig.loader.wrong["m/2"] = error
    rig.loader.store.activate("m/2")
    for _ in range(3):
        rig.following.look()

    assert rig.loader.asked == ["m/2"]  # not at every heartbeat
    assert rig.residents.active.ref == "m/1"
    assert (rig.row().refused_model, str(error) in rig.row().refused_reason) == ("m/2", True)
    assert rig.count("refused") == 1

    rig.now_s += RETRY_S
    rig.following.look()
    assert rig.loader.asked == ["m/2"] * 2
    rig.loader.wrong.clear()
    rig.loader.store.activate("m/2")  # again, after mending it
    rig.following.look()
    assert rig.residents.active.ref == "m/2"
    assert (rig.row().refused_model, rig.row().refused_reason) == (None, None)


def test_going_back_to_the_version_that_serves_ends_a_refusal(rig: Rig) -> None:
    rig.loader.wrong["m/2"] = ModelInvalidError("tampered with")
    rig.loader.store.activate("m/2")
    rig.following.look()

    rig.loader.store.activate("m/1")
    rig.following.look()

    assert rig.row().refused_model is None
    assert rig.loader.asked == ["m/2"]


def test_a_database_that_is_away_refuses_no_version(rig: Rig) -> None:
    rig.loader.wrong["m/2"] = DatabaseUnavailableError("down")
    rig.loader.store.activate("m/2")
    with pytest.raises(DatabaseUnavailableError):
        rig.following.look()
    rig.loader.wrong.clear()
    rig.now_s += RETRY_S
    rig.following.look()

    assert rig.residents.active.ref == "m/2"
    assert rig.count("refused") == 0


def test_where_no_version_is_active_any_more_the_one_that_serves_goes_on(rig: Rig) -> None:
    rig.loader.store = SimpleNamespace(active_ref=lambda: None, active_stamp=lambda: None)
    rig.following.look()

    assert rig.residents.active.ref == "m/1"
