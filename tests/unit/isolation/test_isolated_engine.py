"""Real child processes: one that serves a real model, and quick ones with a stand-in for it."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import psutil
import pytest

from alexq_schema.errors import EngineError, FailedError, ImageLostError, WorkerCrashedError
from alexq_schema.images import FileImageStore
from alexq_schema.models import ModelStore
from alexq_schema.work import Claim, Crashed, Errored, Failed, Outcome, PredictionWriter, Succeeded
from alexq_worker.isolation.messages import Job, Ready, Setup
from alexq_worker.isolation.parent import IsolatedEngine
from alexq_worker.isolation.process import ChildProcess
from tests.helpers.eventually import eventually
from tests.helpers.models import BASE
from tests.helpers.photos import encode, hostile_images, photo_crops

POISONED = (sys.executable, str(Path(__file__).with_name("poisoned_child.py")))
LABELS = [f"label {index}" for index in range(1000)]
VERSION = SimpleNamespace(ref=BASE, model_id=7, predictions=PredictionWriter(LABELS))
MEMORY_BYTES = 256 * 2**20

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux only")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> FileImageStore:
    return FileImageStore(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def setup(images: FileImageStore, models_dir: Path) -> Setup:
    return Setup(
        images_url=images.root.as_uri(),
        models_dir=models_dir,
        device="cpu",
        precision="fp32",
        max_image_pixels=50_000_000,
        memory_bytes=MEMORY_BYTES,
    )


@pytest.fixture(scope="module")
def claim_of(images: FileImageStore) -> Callable[[bytes], Claim]:
    """Store an image and return a claim of a suspect that needs it."""

    def claim(data: bytes) -> Claim:
        with images.staging() as staging:
            key = staging.add(data)
            staging.publish()
        return Claim(uuid4(), 2, uuid4(), "classify", "photo.jpg", key, crashes=1)

    return claim


@pytest.fixture(scope="module")
def real(setup: Setup) -> Iterator[IsolatedEngine]:
    """Serves a real model; its child is shared."""
    isolated = IsolatedEngine(setup)
    yield isolated
    isolated.stop()


@pytest.fixture
def isolated(setup: Setup) -> Iterator[Callable[..., IsolatedEngine]]:
    """Make isolated engines whose children obey images such as ``b"kill"``."""
    made: list[IsolatedEngine] = []

    def make(setup: Setup = setup, argv: tuple[str, ...] = POISONED, **options: float) -> IsolatedEngine:
        made.append(IsolatedEngine(setup, argv=argv, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.stop()
    assert not children()


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that a child makes when it hangs."""
    path = tmp_path / "hanging"
    monkeypatch.setenv("HANGING", str(path))
    return path


@pytest.fixture(scope="module")
def photograph() -> bytes:
    return encode(photo_crops(1)[0])


def children(of: int | None = None) -> list[psutil.Process]:
    """Return this process's quick children, living or not reaped."""
    return [process for process in psutil.Process(of).children() if is_quick(process)]


def is_quick(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE or POISONED[1] in process.cmdline()
    except psutil.ZombieProcess:  # since it was asked
        return True
    except psutil.NoSuchProcess:  # reaped meanwhile
        return False


def is_gone(process: psutil.Process) -> bool:
    """Return whether it has ended, reaped or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def only_child(of: int | None = None) -> psutil.Process:
    process = eventually(lambda: children(of), what="a child runs")[0]
    eventually(lambda: process.cmdline()[1:2] == [POISONED[1]], what="it is no longer a copy of its parent")
    return process


class Running:
    """One classify in a thread, as the pipeline's stage has it."""

    def __init__(self, engine: IsolatedEngine, claim: Claim) -> None:
        self._outcomes: list[Outcome] = []
        self._thread = threading.Thread(target=lambda: self._outcomes.append(engine.classify(claim, VERSION)))
        self._thread.start()

    def outcome(self) -> Outcome:
        self._thread.join(60)
        return self._outcomes[0]


def test_a_suspect_that_is_fine_gives_what_the_resident_engine_gives(
    real: IsolatedEngine, setup: Setup, claim_of: Callable[[bytes], Claim]
) -> None:
    from alexq_worker.inference.decode import Decoder
    from alexq_worker.inference.engine import Engine

    version = ModelStore(setup.models_dir).find(VERSION.ref)
    engine = Engine.load(version, device="cpu", precision="fp32", max_batch=3)
    engine.warm_up()
    batch = engine.new_batch()
    photographs = [encode(crop) for crop in photo_crops(3)]
    for slot, data in zip(batch, photographs, strict=True):
        Decoder(version.info.preprocessing, 10**6).decode(data).write_to(slot)
    top = engine.classify(batch)
    for data, indices, probabilities in zip(photographs, top.indices, top.probabilities, strict=True):
        claim = claim_of(data)
        outcome = real.classify(claim, VERSION)
        assert isinstance(outcome, Succeeded)
        assert outcome.claim == claim
        assert outcome.batch_size == 1
        assert outcome.decode_s > 0
        assert outcome.forward_s > 0
        predictions = json.loads(outcome.predictions.json)
        assert [p["index"] for p in predictions] == indices.tolist()
        assert [p["label"] for p in predictions] == [LABELS[index] for index in indices]
        assert np.allclose([p["probability"] for p in predictions], probabilities, atol=1e-4)


def test_a_bad_image_fails_with_its_type(real: IsolatedEngine, claim_of: Callable[[bytes], Claim]) -> None:
    for code, data in hostile_images().items():
        claim = claim_of(data)
        outcome = real.classify(claim, VERSION)
        assert isinstance(outcome, Failed), code
        assert (outcome.claim, outcome.code) == (claim, code)
        assert outcome.detail


@pytest.mark.parametrize(
    ("poison", "how"),
    [
        ("kill", "the process died of SIGKILL"),
        ("segv", "the process died of SIGSEGV"),
        ("exit", "the process ended with exit code 7"),
        ("bomb", f"the process ran out of memory: it may take {MEMORY_BYTES:,} bytes"),
        ("torch_bomb", "the process ran out of memory"),
        ("not_json", "makes no sense"),
        ("not_an_answer", "makes no sense"),
        ("nul", "makes no sense"),
        ("endless", "more than 65,536 bytes"),
        ("out_of_reach", "classes that the model does not have"),
        ("another_job", "something that it was not asked"),
    ],
)
def test_an_image_that_breaks_the_child_is_a_crash_that_says_how(
    poison: str, how: str, isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim]
) -> None:
    if poison == "bomb" and sys.platform != "linux":
        pytest.skip("memory is limited on Linux only")
    claim = claim_of(poison.encode())
    outcome = isolated().classify(claim, VERSION)
    assert isinstance(outcome, Crashed), outcome
    assert outcome.claim == claim
    assert outcome.code == WorkerCrashedError.code
    assert how in outcome.detail
    assert not children()


def test_the_suspect_after_a_crash_gets_a_fresh_child(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim], photograph: bytes
) -> None:
    engine = isolated()
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    assert isinstance(engine.classify(claim_of(b"kill"), VERSION), Crashed)
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)


def test_a_job_that_hangs_is_ended_at_its_time_limit(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim], photograph: bytes
) -> None:
    engine = isolated(timeout_s=3.0)
    assert isinstance(
        engine.classify(claim_of(photograph), VERSION), Succeeded
    )  # the start has its own limit
    started = time.monotonic()
    outcome = engine.classify(claim_of(b"hang"), VERSION)
    assert isinstance(outcome, Crashed)
    assert outcome.detail == "took longer than 3 s; the process was ended"
    assert time.monotonic() - started >= 3.0
    assert not children()


def test_an_answer_that_is_there_counts_however_late_it_is_looked_at() -> None:
    """The worker itself may be stopped for a while, as a whole."""
    says = f"import sys, time; print({Ready().to_line().decode()!r}, flush=True); time.sleep(600)"
    times = itertools.count(step=1_000)
    child = ChildProcess((sys.executable, "-c", says, POISONED[1]), lambda: float(next(times)))
    try:
        eventually(lambda: not child.is_quiet(), what="it has answered")
        assert isinstance(child.hear(1.0), Ready)
    finally:
        child.end()
        child.close()


def test_a_job_may_not_use_more_cpu_time_than_it_is_given(
    setup: Setup, claim_of: Callable[[bytes], Claim]
) -> None:
    # By hand: beside a parent that watches the clock, this limit is for a parent that no longer does.
    job = Job(job_id=uuid4(), image_key=claim_of(b"spin").image_key, cpu_s=0.1)
    process = subprocess.Popen(
        [*POISONED, str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin
    process.stdin.write(setup.serving(VERSION.ref).to_line() + job.to_line())
    process.stdin.flush()
    try:
        assert process.wait(150) == -signal.SIGXCPU
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def test_errors_of_ours_are_not_crashes(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim], images: FileImageStore
) -> None:
    engine = isolated()
    outcome = engine.classify(claim_of(b"raise"), VERSION)
    child = only_child()
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.is_retryable) == (FailedError.code, False)
    assert "ZeroDivisionError" in outcome.detail
    lost = claim_of(b"this image will be lost")
    images.path(lost.image_key).unlink()
    outcome = engine.classify(lost, VERSION)
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.is_retryable) == (ImageLostError.code, True)
    assert only_child() == child


def test_what_libraries_print_is_no_answer(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim]
) -> None:
    outcome = isolated().classify(claim_of(b"chatter"), VERSION)
    assert isinstance(outcome, Succeeded)
    predictions = json.loads(outcome.predictions.json)
    assert [(p["label"], p["probability"]) for p in predictions] == [("label 3", 0.75), ("label 1", 0.25)]


def test_an_answer_that_was_not_asked_for_is_not_taken_for_the_next_job(
    isolated: Callable[..., IsolatedEngine],
    claim_of: Callable[[bytes], Claim],
    photograph: bytes,
    hanging: Path,
) -> None:
    engine = isolated()
    assert isinstance(engine.classify(claim_of(b"speak_twice"), VERSION), Succeeded)
    eventually(hanging.exists)
    outcome = engine.classify(claim_of(photograph), VERSION)
    assert isinstance(outcome, Succeeded)
    assert outcome.predictions.label == "label 3"


@pytest.mark.parametrize(
    ("argv", "start_timeout_s", "why"),
    [
        (("/no/such/program",), 60, "cannot start"),
        ((sys.executable, "-c", "raise SystemExit(3)"), 60, "exit code 3"),
        ((sys.executable, "-c", "import time; time.sleep(600)"), 0.5, "took longer than 0.5 s"),
        ((sys.executable, "-c", "print('hello', flush=True); input()"), 60, "makes no sense"),
    ],
)
def test_a_child_that_does_not_get_ready_is_not_the_jobs_fault(
    argv: tuple[str, ...],
    start_timeout_s: float,
    why: str,
    isolated: Callable[..., IsolatedEngine],
    claim_of: Callable[[bytes], Claim],
) -> None:
    outcome = isolated(argv=argv, start_timeout_s=start_timeout_s).classify(claim_of(b"kill"), VERSION)
    assert isinstance(outcome, Errored)
    assert (outcome.code, outcome.is_retryable) == (EngineError.code, True)
    assert why in outcome.detail


def test_a_model_that_is_gone_is_named(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim]
) -> None:
    gone = SimpleNamespace(**{**vars(VERSION), "ref": "gone/1"})
    outcome = isolated().classify(claim_of(b"kill"), gone)
    assert isinstance(outcome, Errored)
    assert outcome.is_retryable
    assert "no model gone/1" in outcome.detail


def test_stop_ends_a_job_at_once_and_nothing_starts_after_it(
    isolated: Callable[..., IsolatedEngine],
    claim_of: Callable[[bytes], Claim],
    photograph: bytes,
    hanging: Path,
) -> None:
    engine = isolated(timeout_s=3600.0)
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    running = Running(engine, claim_of(b"hang"))
    child = only_child()
    eventually(hanging.exists)
    engine.stop()
    engine.stop()
    assert not child.is_running()
    for outcome in (running.outcome(), engine.classify(claim_of(photograph), VERSION)):
        assert isinstance(outcome, Errored)
        assert outcome.is_retryable
        assert outcome.detail == "the worker is stopping"
    assert not children()


def test_stop_ends_a_child_that_is_still_starting(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim]
) -> None:
    engine = isolated(argv=(sys.executable, "-c", "import time; time.sleep(60)", POISONED[1]))
    running = Running(engine, claim_of(b"kill"))
    child = eventually(children)[0]
    engine.stop()
    assert isinstance(running.outcome(), Errored)
    assert not child.is_running()


def test_stop_before_any_suspect_starts_nothing(isolated: Callable[..., IsolatedEngine]) -> None:
    isolated().stop()
    assert not children()


@linux_only
def test_a_child_dies_with_its_worker(
    setup: Setup, claim_of: Callable[[bytes], Claim], tmp_path: Path, hanging: Path
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "from alexq_schema.work import Claim\n"
        "from alexq_worker.isolation.messages import Setup\n"
        "from alexq_worker.isolation.parent import IsolatedEngine\n"
        "from types import SimpleNamespace\n"
        "from uuid import UUID\n"
        f"setup = Setup.model_validate_json({setup.model_dump_json()!r})\n"
        f"version = SimpleNamespace(ref={VERSION.ref!r})\n"
        f"IsolatedEngine(setup, argv={POISONED!r}).classify({claim_of(b'hang')!r}, version)\n"
    )
    process = subprocess.Popen([sys.executable, str(worker)])
    try:
        child = only_child(process.pid)
        eventually(hanging.exists)
    finally:
        process.kill()
        process.wait(60)
    eventually(lambda: is_gone(child))


def test_signals_meant_for_the_worker_leave_the_child_alone(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim], photograph: bytes
) -> None:
    engine = isolated()
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    child = only_child()
    assert os.getpgid(child.pid) == os.getsid(child.pid) == child.pid
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGINT)
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    assert only_child() == child


def test_an_idle_child_is_ended_and_the_next_suspect_gets_another(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim], photograph: bytes
) -> None:
    engine = isolated(idle_s=0.3)
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    eventually(lambda: not children(), what="the idle child ends")
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)


def test_a_child_in_use_is_not_idle(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim], photograph: bytes
) -> None:
    engine = isolated(idle_s=0.3, timeout_s=3.0)
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    outcome = engine.classify(claim_of(b"hang"), VERSION)
    assert isinstance(outcome, Crashed)
    assert "took longer than 3 s" in outcome.detail


def test_a_child_that_died_between_jobs_costs_nobody(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim], photograph: bytes
) -> None:
    engine = isolated()
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    child = only_child()
    child.kill()
    eventually(lambda: child.status() == psutil.STATUS_ZOMBIE)
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)


@linux_only
def test_a_child_that_dies_before_it_has_read_its_job_costs_nobody(
    isolated: Callable[..., IsolatedEngine], claim_of: Callable[[bytes], Claim], photograph: bytes
) -> None:
    engine = isolated(idle_s=600.0)
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    child = only_child()
    child.suspend()  # as one that is being killed: it lives, says nothing and reads nothing
    outcomes: list[Outcome] = []
    asking = threading.Thread(target=lambda: outcomes.append(engine.classify(claim_of(photograph), VERSION)))
    asking.start()
    assert engine._child is not None
    requests = engine._child._stdin.fileno()
    eventually(lambda: unread_bytes(requests) > 0, what="the job lies in the pipe")
    child.kill()
    asking.join(60)

    assert [type(outcome) for outcome in outcomes] == [Succeeded]


def unread_bytes(pipe: int) -> int:
    answer = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


@linux_only
def test_the_child_knows_no_passwords(
    isolated: Callable[..., IsolatedEngine],
    claim_of: Callable[[bytes], Claim],
    photograph: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALEXQ_DATABASE_URL", "postgresql+psycopg://alexq:secret@db/alexq")
    engine = isolated()
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    assert not [name for name in only_child().environ() if name.startswith("ALEXQ_")]


def test_the_worker_side_needs_no_torch() -> None:
    program = "import sys, alexq_worker.isolation.parent; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_suspect_of_another_version_gets_a_child_that_has_it(
    isolated: Callable[..., IsolatedEngine],
    models_dir: Path,
    claim_of: Callable[[bytes], Claim],
    photograph: bytes,
) -> None:
    engine = isolated()
    assert isinstance(engine.classify(claim_of(photograph), VERSION), Succeeded)
    first = only_child().pid
    copy = ModelStore(models_dir)
    ref = "alexnet/another"
    info = copy.find(VERSION.ref).info.model_copy(update={"version": "another"})
    copy.folder(ref).mkdir(exist_ok=True)
    (copy.folder(ref) / "model.json").write_text(info.model_dump_json())
    another = SimpleNamespace(
        ref=ref, model_id=8, predictions=PredictionWriter(["a", "b", "c", "the fourth"])
    )

    try:
        outcome = engine.classify(claim_of(photograph), another)
    finally:
        shutil.rmtree(copy.folder(ref))

    assert isinstance(outcome, Succeeded)
    assert (outcome.model_id, outcome.predictions.label) == (8, "the fourth")
    assert only_child().pid != first


def test_a_suspect_gets_what_its_job_asks_for(
    real: IsolatedEngine, claim_of: Callable[[bytes], Claim], photograph: bytes
) -> None:
    claim = claim_of(photograph)._replace(options={"crops": 10, "top_k": 9, "min_probability": 1e-6})
    outcome = real.classify(claim, VERSION)
    assert isinstance(outcome, Succeeded)
    assert 0 < len(json.loads(outcome.predictions.json)) <= 9

    unknown = claim._replace(options={"of a later release": 1})
    outcome = real.classify(unknown, VERSION)
    assert isinstance(outcome, Errored)
    assert outcome.is_retryable
