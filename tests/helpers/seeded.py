"""A database as a busy system leaves it: what the dashboard shows, without a worker having done it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import insert, update

from alexq_schema.db import workers
from alexq_schema.db.clock import db_now, now
from alexq_schema.db.session import Database
from alexq_schema.db.tables import Job, JobEvent, Submission, Worker
from alexq_schema.db.workers import MemoryUse, Vitals
from alexq_schema.ids import first_id_at, new_id
from alexq_schema.images.store import ImageStore
from alexq_schema.job import ModelRef
from alexq_schema.names import TASK_CLASSIFY_JOBS
from tests.helpers.photos import encode, photo_crops

LABELS = ("tabby", "golden retriever", "espresso", "lighthouse", "acoustic guitar", "daisy", "trolleybus")
FAILURES = ("image_truncated", "image_corrupt", "image_type_unsupported")
DEAD = ("image_lost", "worker_crashed", "image_lost")
WHY = {
    "image_truncated": "the JPEG ends before its picture does, after 31744 bytes: send the whole file",
    "image_corrupt": "the JPEG is damaged (broken data stream): save it again from its source",
    "image_type_unsupported": "this is not a JPEG, PNG or WebP file",
    "image_lost": "the store lost an accepted image: it is in no folder of this host",
    "worker_crashed": "the process died of SIGSEGV",
}
ROWS = 1_000


@dataclass(slots=True)
class Seeded:
    """What was put there."""

    job_ids: dict[str, list[UUID]] = field(default_factory=dict)
    """By state, oldest first."""
    submission_ids: list[UUID] = field(default_factory=list)


def seed(
    database: Database,
    images: ImageStore,
    *,
    succeeded: int = 9_800,
    failed: int = 200,
    dead: int = 40,
    waiting: int = 150,
) -> Seeded:
    """Insert jobs of the last day, two workers that live and one that died."""
    with images.staging() as staging:
        keys = [staging.add(encode(crop)) for crop in photo_crops(7)]
        staging.publish()
    seeded = Seeded()
    total = succeeded + failed + dead + waiting
    with database.begin() as connection:
        model = ModelRef(name="alexnet", version="imagenet1k_v1", precision="bf16", trained=True)
        model_id = workers.register_model(connection, model, "1" * 64)
        here = [new_id() for _ in range(3)]
        for number, (worker_id, device) in enumerate(
            zip(here, ("cuda:0 NVIDIA L4", "cuda:1 NVIDIA L4", "cpu"), strict=True)
        ):
            host = f"gpu-{number // 2 + 1}"
            workers.register(
                connection, worker_id, host=host, pid=4100 + number, device=device, model_id=model_id
            )
        connection.execute(
            update(Worker)
            .values(started_at=db_now(-7_200.0), last_seen_at=db_now())
            .where(Worker.id != here[2])
        )
        for worker_id, used in zip(here[:2], (1_260_000_000, 1_250_000_000), strict=True):
            workers.renew(connection, worker_id, Vitals(64, MemoryUse(used, 24_050_000_000)))
        connection.execute(
            update(Worker)
            .values(started_at=db_now(-7_200.0), last_seen_at=db_now(-400.0))
            .where(Worker.id == here[2])
        )
        at = now(connection)
        seeded.submission_ids = [
            UUID(int=first_id_at(at - timedelta(hours=20 - 2 * n)).int | 0x7 << 76 | n) for n in range(10)
        ]
        each = total // 10 + 1
        connection.execute(
            insert(Submission),
            [
                {
                    "id": submission_id,
                    "created_at": at - timedelta(hours=20 - 2 * n),
                    "total": min(each, total - n * each),
                    "tenant": ("shop", "archive", None)[n % 3],
                }
                for n, submission_id in enumerate(seeded.submission_ids)
            ],
        )
        rows = []
        for number, state in enumerate(_states(succeeded, failed, dead, waiting)):
            age_s = (
                86_000 * max(0.0, 1 - number / (total - waiting)) ** 1.25 + 3
                if state != "queued"
                else (total - number) * 2
            )
            row = _row(number, state, at - timedelta(seconds=age_s), keys, here, model_id)
            row["submission_id"] = seeded.submission_ids[number // each]
            row["position"] = number % each
            seeded.job_ids.setdefault(state, []).append(row["id"])
            rows.append(row)
        for start in range(0, len(rows), ROWS):
            connection.execute(insert(Job), rows[start : start + ROWS])
        connection.execute(
            insert(JobEvent),
            [
                {
                    "job_id": row["id"],
                    "at": row["finished_at"] - timedelta(minutes=5 - attempt),
                    "kind": "crashed" if row["error_code"] == "worker_crashed" else "errored",
                    "attempt": attempt,
                    "worker_id": here[attempt % 3],
                    "code": row["error_code"],
                    "detail": row["error_detail"],
                }
                for row in rows
                if row["state"] == "dead"
                for attempt in (1, 2, 3)
            ],
        )
    return seeded


def _states(succeeded: int, failed: int, dead: int, waiting: int) -> list[str]:
    """Return the jobs' states in the order of age, those that ended badly spread evenly."""
    well = _spread(succeeded + failed, "failed", failed, iter(succeeded * ["succeeded"]))
    return _spread(len(well) + dead, "dead", dead, iter(well)) + waiting * ["queued"]


def _spread(total: int, state: str, number: int, others: Iterator[str]) -> list[str]:
    return [
        state if (place + 1) * number // total != place * number // total else next(others)
        for place in range(total)
    ]


def _row(
    number: int, state: str, created_at: datetime, keys: list[str], here: list[UUID], model_id: int
) -> dict[str, Any]:
    batch = (64, 64, 48, 32, 64, 17, 56)[number // 64 % 7]
    is_ended = state != "queued"
    label = LABELS[(number + number // 7) % len(LABELS)]
    best = 0.42 + number * 37 % 55 / 100
    others = [one for one in LABELS if one != label][:4]
    code = FAILURES[number % 3] if state == "failed" else DEAD[number % 3] if state == "dead" else None
    return {
        "id": UUID(int=first_id_at(created_at).int | 0x7 << 76 | 0x2 << 62 | number),
        "task": TASK_CLASSIFY_JOBS,
        "lane": "interactive" if number % 9 == 0 else "bulk",
        "source": f"photos/2026/IMG_{number:05d}.jpg",
        "image_key": keys[number % 7] if state == "succeeded" else hashlib.sha256(b"%d" % number).hexdigest(),
        "image_bytes": 57_000,
        "state": state,
        "attempt": 3 if state == "dead" else 1 if is_ended else 0,
        "errors": 3 if state == "dead" and code == "image_lost" else 0,
        "crashes": 3 if code == "worker_crashed" else 0,
        "worker_id": here[number // 64 % 3] if is_ended else None,
        "created_at": created_at,
        "published_at": created_at,
        "claimed_at": created_at + timedelta(seconds=1.4) if is_ended else None,
        "finished_at": created_at + timedelta(seconds=1.62) if is_ended else None,
        "decode_s": 0.004 + number % 7 / 1000 if state == "succeeded" else None,
        "forward_s": 0.02 + batch / 900 if state == "succeeded" else None,
        "batch_size": batch if state == "succeeded" else None,
        "model_id": model_id if state == "succeeded" else None,
        "label": label if state == "succeeded" else None,
        "probability": best if state == "succeeded" else None,
        "predictions": [
            {"index": place, "label": one, "probability": p}
            for place, (one, p) in enumerate(
                [(label, best), *((other, (1 - best) / 2 ** (n + 1)) for n, other in enumerate(others))]
            )
        ]
        if state == "succeeded"
        else None,
        "error_code": code,
        "error_detail": code and WHY[code],
    }
