"""One scenario's world: its folder, servers, workers, submitters, its clock and its verdict."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from alexq_schema.settings import Settings
from benchmarks.chaos import audit
from benchmarks.chaos.campaign import Campaign, Row, percentiles
from benchmarks.chaos.checker import Checker, Told, Verdict, read_logs
from benchmarks.chaos.fleet import Fleet, Member
from benchmarks.chaos.processes import InterruptedCampaignError, kill_tree, tail
from benchmarks.chaos.reference import IMAGES
from benchmarks.chaos.servers import Broker, PostgreSQL
from benchmarks.chaos.submitter import plan
from benchmarks.chaos.submitting import Submitter

T = TypeVar("T")

LIMIT_S = 600.0
"""So late even a loaded machine is only when something is stuck: a time decides nothing else."""


class Scene:
    """Made by the campaign, used by one scenario in one thread."""

    def __init__(
        self, campaign: Campaign, name: str, *, database: str = "sqlite", aof: bool = True, **settings: Any
    ) -> None:
        self.campaign = campaign
        self.processes = campaign.processes
        self.rng = random.Random(f"{campaign.seed} {name}")
        self.folder = campaign.folder / name
        self.folder.mkdir()
        self.row = Row(name, database=database)
        self._began = time.monotonic()
        self.broker = Broker(campaign.processes, self.folder / "broker", aof=aof)
        self.broker.start()
        self._postgres: PostgreSQL | None = None
        url = f"sqlite:///{self.folder / 'alexq.db'}"
        if database == "postgresql":
            self._postgres = PostgreSQL(
                campaign.processes, campaign.postgres, campaign.postgres_template, self.folder / "postgres"
            )
            self._postgres.start()
            url = self._postgres.url
        else:
            shutil.copy(campaign.sqlite_template, self.folder / "alexq.db")
        self.settings = Settings.load(
            data_dir=self.folder / "data",
            database_url=url,
            broker_url=self.broker.url,
            models_dir=campaign.answers.models_dir,
            device="cpu",
            **{"max_batch": 16, "decode_threads": 1, "heartbeat_s": 1.0, "silent_after_s": 5.0, **settings},
        )
        self.checker = Checker(url, campaign.answers)
        self.fleet = Fleet(campaign.processes, self.settings, self.folder, self.rng, campaign.nursery)
        self.submitters: list[Submitter] = []
        self._all_must_succeed = True

    @property
    def postgres(self) -> PostgreSQL:
        """This scenario's PostgreSQL."""
        assert self._postgres is not None
        return self._postgres

    def pick(self, *, short: T, full: T) -> T:
        """Return what this profile uses."""
        return short if self.campaign.profile == "short" else full

    def jobs(self, *, short: int, full: int) -> int:
        """Return this profile's number of jobs, scaled."""
        return max(10, round(self.pick(short=short, full=full) * self.campaign.jobs_scale))

    def workers(self, count: int, **overrides: Any) -> list[Member]:
        """Start workers and wait until they are ready."""
        members = self.fleet.add(count, **overrides)
        self.fleet.wait_ready(members)
        return members

    def submit(self, jobs: int, *, over_s: float = 0.0, die_before_publish: int = 0) -> Submitter:
        """Start a submitter of so many jobs; ``over_s`` spreads them over that time, about."""
        submissions = plan(self.rng, jobs, IMAGES)
        rate = jobs / over_s if over_s else 0.0
        submitter = self._submitter(submissions, rate, die_before_publish)
        self.submitters.append(submitter)
        return submitter

    def submit_one(self, image: int) -> None:
        """Start a submitter of one image, by its number."""
        self.submitters.append(self._submitter([[image]], 0.0, 0))

    def _submitter(
        self, submissions: list[list[int]], jobs_per_s: float, die_before_publish: int
    ) -> Submitter:
        images, number = self.campaign.answers.folder, len(self.submitters)
        return Submitter(
            self.campaign.nursery,
            self.settings,
            self.folder,
            images,
            number,
            submissions,
            jobs_per_s,
            die_before_publish,
        )

    def sleep(self, seconds: float) -> None:
        """Sleep, unless the campaign is told to stop."""
        self.processes.sleep(seconds)

    def wait_for(self, probe: Callable[[], T], timeout_s: float, what: str) -> T:
        """Return the first truthy value of ``probe``; raises TimeoutError."""
        return self.processes.wait_for(probe, timeout_s, what=what)

    def wait_submitted(self, timeout_s: float = LIMIT_S) -> None:
        """Wait until every submitter is done."""
        self.wait_for(lambda: all(s.is_done() for s in self.submitters), timeout_s, "everything is submitted")

    def wait_succeeded(self, count: int, timeout_s: float = LIMIT_S) -> None:
        """Wait until ``count`` jobs have succeeded."""
        self.wait_for(
            lambda: (self.checker.counts() or {}).get("succeeded", 0) >= count, timeout_s, f"{count} succeed"
        )

    def wait_holds(self, member: Member, at_least: int) -> None:
        """Wait until a worker holds so many jobs."""
        what = f"worker {member.number} holds {at_least} jobs"
        self.wait_for(lambda: len(self.checker.held_by(member.pid)) >= at_least, LIMIT_S, what)

    def is_busy(self) -> bool:
        """Return whether jobs are unfinished, or yet to come."""
        submitted = [submitter.is_done() for submitter in self.submitters]
        return not (all(submitted) and self._is_idle())

    def _is_idle(self) -> bool:
        counts = self.checker.counts()
        return counts is not None and not (counts.get("queued", 0) or counts.get("running", 0))

    def finish(self) -> None:
        """Wait until everything has ended; what has not after :data:`LIMIT_S` is lost."""
        try:
            self.processes.wait_for(lambda: not self.is_busy(), LIMIT_S, what="every job ends", every_s=0.5)
        except TimeoutError:
            self.row.broken.append(f"unfinished at the limit of {LIMIT_S:.0f} s")

    def told(self) -> Told:
        """Return what the submitters have written down by now."""
        return read_logs([submitter.log for submitter in self.submitters])

    def promise(self, kept: bool, what: str) -> None:
        """Note a promise of this scenario that was not kept."""
        if not kept:
            self.row.broken.append(what)

    def note(self, **details: Any) -> None:
        """Add to the row's details."""
        self.row.details.update(details)

    def verdict(self) -> Verdict:
        """Return the judgement of now."""
        return self.checker.judge(self.told())

    def recovery(self, seconds: Sequence[float], of: str) -> None:
        """Set the row's recovery times."""
        self.row.recovery_s = percentiles(seconds)
        self.row.recovery_of = of

    def reclaims(self) -> list[float]:
        """Return the seconds from each kill to the return of each job that the victim held."""
        ids = self.checker.worker_ids()
        deaths = {ids[death.pid]: death.at for death in self.fleet.kills if death.pid in ids}
        return audit.reclaims(self.checker.changes(), deaths)

    def nobody_died(self) -> None:
        """Promise that no worker was taken for dead: the fault was elsewhere, or nowhere."""
        crashes = self.verdict().crashes
        self.promise(crashes == 0, f"no living worker is taken for dead, but {crashes} jobs were taken back")

    def some_may_fail(self) -> None:
        """This scenario says itself which jobs must not succeed."""
        self._all_must_succeed = False

    def close(self) -> Row:
        """Stop everything, judge, and return the row."""
        if self.fleet.members:
            codes = self.fleet.stop()
            self.promise(not any(codes), f"workers exit 0 on SIGTERM, not {codes}")
        try:
            verdict = self.checker.judge(self.told())
        except SQLAlchemyError as error:
            self.row.broken.append(f"the database could not be read at the end: {error}")
        else:
            self._fill(verdict)
        if not self.row.is_good:
            self.row.dump = self._dump()
        self._end()
        return self.row

    def abandon(self) -> None:
        """Kill everything that this scenario started."""
        self.fleet.restarting = False
        for member in self.fleet.members:
            kill_tree(member.pid)
        self._end()

    def _end(self) -> None:
        for submitter in self.submitters:
            submitter.kill()
        for server in (self.broker, self._postgres):
            if server is not None:
                kill_tree(server.pid)
        self.row.duration_s = round(time.monotonic() - self._began, 1)

    def _fill(self, verdict: Verdict) -> None:
        told = self.told()
        row = self.row
        row.jobs, row.lost, row.duplicated, row.wrong = (
            verdict.jobs, verdict.lost, verdict.duplicated, verdict.wrong,
        )  # fmt: skip
        facts = asdict(verdict)
        for name in ("jobs", "lost", "duplicated", "wrong"):
            facts.pop(name)
        row.details = {
            "not_succeeded": sum(n for state, n in verdict.states.items() if state != "succeeded"),
            **facts,
            "calls_refused": dict(told.refused),
            "worker_exits": dict(Counter(code for member in self.fleet.members for code, _ in member.exits)),
            **row.details,
        }
        bad = {
            state: n for state, n in verdict.states.items() if state not in ("succeeded", "queued", "running")
        }
        if self._all_must_succeed and bad:
            row.broken.append(f"every job succeeds, but {bad}")
        self.promise(told.is_complete, "every submission is accepted in the end")

    def _dump(self) -> str:
        parts = [f"states: {self.checker.counts()}"]
        for member in self.fleet.members:
            parts.append(f"--- {member.log.name}, exits {[code for code, _ in member.exits]}")
            parts.append(tail(member.log))
        return "\n".join(parts)


def failed_row(name: str, error: BaseException, scene: Scene | None) -> Row:
    """Return the row of a scenario that broke, and end what it started."""
    row = scene.row if scene is not None else Row(name)
    row.broken.append(f"{type(error).__name__}: {error}")
    if scene is not None and not isinstance(error, InterruptedCampaignError):
        row.dump = scene._dump()
    if scene is not None:
        scene.abandon()
    return row
