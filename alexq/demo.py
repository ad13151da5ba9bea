"""``alexq demo``: a few photographs through a whole stack of its own, and what came out.

The stack is ``alexq up`` as a child process, so that it is supervised as any other and the demo only
has to end it. Its log lies in the demo's folder; the lines about the model and the parts are shown.
"""

from __future__ import annotations

import importlib.util
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from alexq.stack.environment import environment, require_gateway, require_monitor, require_worker
from alexq.stack.process import tied_to_parent
from alexq_schema.errors import AlexqError, StackError, StackNotRunningError
from alexq_schema.job import Job, JobState, ModelRef
from alexq_schema.settings import Settings, StackFile

if TYPE_CHECKING:
    from PIL.Image import Image

_BAR_WIDTH: Final = 16
_PROBE_EVERY_S: Final = 0.1
_RESULTS_S: Final = 300.0
_STOP_S: Final = 60.0
_HURRY_S: Final = 10.0
_LOG_TAIL_LINES: Final = 15
_JPEG_QUALITY: Final = 92
_SHOWN: Final = ("broker", "database", "model", "worker", "monitor", "no model", "this model", "port")
"""How the lines of the stack's log begin that the demo shows."""

# Fractions of width and height: left, upper, right, lower. Three regions of each photograph.
_CROPS: Final = {
    "left": (0.0, 0.1, 0.55, 0.9),
    "middle": (0.25, 0.15, 0.75, 0.85),
    "right": (0.45, 0.1, 1.0, 0.9),
}


def run(data_dir: Path | None = None) -> int:
    """Run the demo; return the exit code: 0 only if every picture was classified.

    Args:
        data_dir: where the stack keeps its data; by default a new temporary folder.

    Raises:
        AlexqError: a part could not be started, or did not finish in time.
    """
    require_worker()
    require_gateway()
    require_monitor()
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    folder = (data_dir or Path(tempfile.mkdtemp(prefix="alexq-demo-"))).absolute()
    pictures = make_pictures(folder / "pictures")
    try:
        with running_stack(folder, notes) as stack:
            settings = Settings.load(data_dir=folder, **stack.settings())
            finished = _classify(settings, pictures, notes)
    except KeyboardInterrupt:
        notes.print(Text(f"stopped; remove what it made: rm -r {shlex.quote(str(folder))}"))
        raise
    finished.sort(key=lambda job: job.source)
    Console(highlight=False).print(results_table(finished))
    notes.print(Text(_next_steps(folder, settings.models_dir)))
    return 0 if all(job.state is JobState.SUCCEEDED for job in finished) else 1


def sample_photographs() -> list[Path]:
    """Return the photographs that the scikit-learn package carries, without importing it.

    Raises:
        StackError: it is not installed.
    """
    package = importlib.util.find_spec("sklearn")
    folders = list(package.submodule_search_locations or []) if package else []
    found = sorted(path for folder in folders for path in Path(folder, "datasets", "images").glob("*.jpg"))
    if not found:
        raise StackError(
            "the demo's photographs come with scikit-learn: pip install scikit-learn "
            '(or "alexq[dev]"), or classify your own: `alexq up`, then `alexq submit PATH…`'
        )
    return found


def make_pictures(folder: Path) -> list[Path]:
    """Write each sample photograph and three crops of it into ``folder`` and return them all."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[Path] = []
    for path in sample_photographs():
        with Image.open(path) as photograph:
            photograph.load()
        pictures.append(_save(photograph, folder / path.name))
        width, height = photograph.size
        for name, (left, upper, right, lower) in _CROPS.items():
            box = (int(left * width), int(upper * height), int(right * width), int(lower * height))
            pictures.append(_save(photograph.crop(box), folder / f"{path.stem}-{name}.jpg"))
    return pictures


def _save(picture: Image, path: Path) -> Path:
    picture.save(path, quality=_JPEG_QUALITY)
    return path


@contextmanager
def running_stack(folder: Path, notes: Console) -> Iterator[StackFile]:
    """Run ``alexq up`` in ``folder`` for the length of the block; leaves no process behind.

    Raises:
        StackError: it did not start; the end of its log is shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / "stack.log"
    with log_path.open("wb") as log:
        up = subprocess.Popen(
            tied_to_parent([sys.executable, "-m", "alexq", "up", "--data-dir", str(folder)]),
            env=_environment(folder),
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


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment of the demo's own services; only the models are the user's, fetched once."""
    mine = Settings.load(database_url="", broker_url="", images_url=(folder / "images").as_uri())
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


def results_table(jobs: Sequence[Job]) -> Group:
    """Return the results for people: each picture's labels with bars, and the model that made them."""
    table = Table("picture", "top 5", show_lines=True)
    for job in jobs:
        table.add_row(Path(job.source).name, _labels(job))
    models = {job.model: None for job in jobs if job.model is not None}
    return Group(table, *(_model_line(model) for model in models))


def _labels(job: Job) -> Text:
    if job.error is not None:
        return Text(f"{job.state}: {job.error.code}: {job.error.detail}", style="red")
    lines = [
        f"{'█' * round(p.probability * _BAR_WIDTH):<{_BAR_WIDTH}} {p.probability:6.1%}  {p.label}"
        for p in job.predictions
    ]
    return Text("\n".join(lines) or str(job.state))


def _model_line(model: ModelRef) -> Text:
    line = Text(f"model {model.name}/{model.version}, {model.precision}")
    if not model.trained:
        line.append("\nUNTRAINED: seeded random weights, these labels mean nothing", style="bold yellow")
    return line


def _next_steps(folder: Path, models_dir: Path) -> str:
    database, where, models = (shlex.quote(str(p)) for p in (folder / "alexq.db", folder, models_dir))
    return f"""
Everything has stopped. The results stay in SQLite, table jobs:
  sqlite3 -box {database} 'select source, state, label, probability from jobs'
Bring this stack back, then look at it:
  ALEXQ_MODELS_DIR={models} alexq up --data-dir {where}
  alexq jobs list --data-dir {where}
Go on with your own pictures: `alexq up`, then `alexq submit PATH…`, or in Python:
  from alexq import Producer
  with Producer() as producer:
      for job in producer.submit(["cat.jpg", "dog.jpg"]).results():
          print(job.source, job.label, job.probability)
Remove the demo's data: rm -r {where}"""  # noqa: S608 - text for a person
