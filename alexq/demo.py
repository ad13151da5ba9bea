"""``alexq demo``: a few pictures through a whole stack of its own, and what came out.

With the pretrained weights they are photographs. Without, a model is trained on generated textures, once, and
shown pictures that it has not seen, whose labels are known: the untrained one would show nothing.

The stack is ``alexq up`` as a child process, so that it is supervised as any other and the demo only
has to end it. Its log lies in the demo's folder; the lines about the model and the parts are shown.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from alexq.demo_pictures import make_pictures
from alexq.demo_results import labelled_table, results_table
from alexq.stack.environment import environment, require_gateway, require_monitor, require_worker
from alexq.stack.process import tied_to_parent
from alexq_schema.errors import AlexqError, StackError, StackNotRunningError
from alexq_schema.job import Job, JobState
from alexq_schema.settings import Settings, StackFile

_PROBE_EVERY_S: Final = 0.1
_RESULTS_S: Final = 300.0
_STOP_S: Final = 60.0
_HURRY_S: Final = 10.0
_LOG_TAIL_LINES: Final = 15
_SHOWN: Final = ("broker", "database", "model", "worker", "monitor", "no model", "this model", "port")
"""How the lines of the stack's log begin that the demo shows."""


def run(data_dir: Path | None = None, *, textures: bool = False) -> int:
    """Run the demo; return the exit code: 0 only if every picture was classified.

    Args:
        data_dir: where the stack keeps its data; by default a new temporary folder.
        textures: show the texture model, whether the pretrained weights can be had or not.

    Raises:
        AlexqError: a part could not be started, or did not finish in time.
    """
    require_worker()
    require_gateway()
    require_monitor()
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    folder = (data_dir or Path(tempfile.mkdtemp(prefix="alexq-demo-"))).absolute()
    try:
        model, labelled = _prepare_model(folder / "textures", textures=textures)
        pictures = labelled or make_pictures(folder / "pictures")
        with running_stack(folder, notes, model=model) as stack:
            settings = Settings.load(data_dir=folder, **stack.settings())
            finished = _classify(settings, pictures, notes)
    except KeyboardInterrupt:
        notes.print(Text(f"stopped; remove what it made: rm -r {shlex.quote(str(folder))}"))
        raise
    finished.sort(key=lambda job: job.source)
    Console(highlight=False).print(labelled_table(finished) if labelled else results_table(finished))
    notes.print(Text(_next_steps(folder, settings.models_dir, model)))
    return 0 if all(job.state is JobState.SUCCEEDED for job in finished) else 1


def _prepare_model(pictures: Path, *, textures: bool) -> tuple[str, list[Path]]:
    """Return the version to show, made if need be, and pictures of its own, if it has any.

    Raises:
        StackError: it could not be made.
    """
    done = subprocess.run(
        tied_to_parent(
            [
                *(sys.executable, "-m", "alexq_worker.models", "demo", str(pictures)),
                *(["--textures"] if textures else []),
            ]
        ),
        env=environment(Settings.load()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StackError("there is no model to show; the lines above say why")
    return done.stdout.strip(), sorted(pictures.glob("*/*.jpg"))


@contextmanager
def running_stack(folder: Path, notes: Console, *, model: str = "") -> Iterator[StackFile]:
    """Run ``alexq up`` in ``folder`` for the length of the block; leaves no process behind.

    Args:
        model: the version to serve; by default the active one.

    Raises:
        StackError: it did not start; the end of its log is shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / "stack.log"
    with log_path.open("wb") as log:
        up = subprocess.Popen(
            tied_to_parent([sys.executable, "-m", "alexq", "up", "--data-dir", str(folder)]),
            env=_environment(folder, model),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches the demo, which stops the stack once
        )
    try:
        yield _wait_until_ready(up, folder, log_path, notes)
    except AlexqError:
        for line in log_path.read_text("utf-8", "replace").splitlines()[-_LOG_TAIL_LINES:]:
            notes.print(Text(line, style="dim"))
        raise
    finally:
        _stop(up)


def _environment(folder: Path, model: str) -> dict[str, str]:
    """Return an environment of the demo's own services; only the models are the user's, fetched once."""
    given = {"model": model} if model else {}
    mine = Settings.load(database_url="", broker_url="", images_url=(folder / "images").as_uri(), **given)
    return environment(mine)


def _wait_until_ready(up: subprocess.Popen[bytes], folder: Path, log_path: Path, notes: Console) -> StackFile:
    with log_path.open(encoding="utf-8", errors="replace") as lines, notes.status("starting the stack"):
        while True:
            is_over = _ended_within(up, _PROBE_EVERY_S)
            for line in lines:
                _show(line, notes)
            if is_over:
                raise StackError(f"the stack did not start; its log: {log_path}")
            with suppress(StackNotRunningError):
                return StackFile.read(folder)


def _show(line: str, notes: Console) -> None:
    name, _, text = line.rstrip().partition(" │ ")
    if name.strip() == "model" or text.startswith(_SHOWN):
        notes.print(Text(line.rstrip(), style="dim"))


def _ended_within(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _stop(up: subprocess.Popen[bytes]) -> None:
    """Ask for a clean stop, then for a quick one, then end it: the kernel ends what it started."""
    for number, timeout_s in (
        (signal.SIGINT, _STOP_S),
        (signal.SIGINT, _HURRY_S),
        (signal.SIGKILL, _HURRY_S),
    ):
        if up.poll() is None:
            up.send_signal(number)
        try:
            if _ended_within(up, timeout_s):
                return
        except KeyboardInterrupt:
            continue  # pressed again: hurry


def _classify(settings: Settings, pictures: Sequence[Path], notes: Console) -> list[Job]:
    from alexq_producer import Producer

    columns = (TextColumn("classifying"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, console=notes, disable=not notes.is_terminal)
    with Producer(settings) as producer, progress:
        submission = producer.submit(pictures)
        results = submission.results(timeout_s=_RESULTS_S)
        return list(progress.track(results, total=len(submission)))


def _next_steps(folder: Path, models_dir: Path, model: str) -> str:
    database, where, models = (shlex.quote(str(p)) for p in (folder / "alexq.db", folder, models_dir))
    return f"""
Everything has stopped. The results stay in SQLite, table jobs:
  sqlite3 -box {database} 'select source, state, label, probability from jobs'
Bring this stack back, then look at it:
  ALEXQ_MODELS_DIR={models} ALEXQ_MODEL={model} alexq up --data-dir {where}
  alexq jobs list --data-dir {where}
Train on your own labels: alexq models train PICTURES --as NAME/VERSION --activate
Go on with your own pictures: `alexq up`, then `alexq submit PATH…`, or in Python:
  from alexq import Producer
  with Producer() as producer:
      for job in producer.submit(["cat.jpg", "dog.jpg"]).results():
          print(job.source, job.label, job.probability)
Remove the demo's data: rm -r {where}"""  # noqa: S608 - text for a person
