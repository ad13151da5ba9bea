"""Images made to hurt the worker cost one job each, seconds at most and little memory."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageFile

from alexq_producer import Producer
from alexq_schema.errors import AlexqError, ImageError
from alexq_schema.images import check_image
from alexq_schema.job import Job, JobState
from alexq_schema.model_info import Preprocessing
from alexq_worker.inference.decode import Decoder
from tests.helpers.hostile import MAX_BYTES, Hostile, hostile_images
from tests.helpers.photos import encode, photo_crops
from tests.helpers.processes import WorkerProcess

StartWorker = Callable[..., WorkerProcess]

MIB = 2**20
PROMISE_S = 2.0
PROMISE_BYTES = 256 * MIB
ALLOWED = {"JpegImageFile", "PngImageFile", "WebPImageFile", "GifImageFile"}
GOOD = 20


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One database is enough here: no image reaches it."""
    return sqlite_url


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of Pillow's readers that were begun, and of ``Image.open`` where it guessed."""
    Image.init()  # all of Pillow's formats are there to be opened
    names: set[str] = set()
    begin = ImageFile.ImageFile.__init__

    def recorded(self: ImageFile.ImageFile, *arguments: object, **options: object) -> None:
        names.add(type(self).__name__)
        begin(self, *arguments, **options)  # type: ignore[arg-type]

    def guess(*arguments: object, **options: object) -> None:
        names.add("Image.open")
        raise AssertionError("Image.open tries formats in turn")

    monkeypatch.setattr(ImageFile.ImageFile, "__init__", recorded)
    monkeypatch.setattr(Image, "open", guess)
    return names


def test_there_are_enough_of_every_kind() -> None:
    groups = Counter(image.group for image in hostile_images())

    assert len(hostile_images()) > 250
    assert groups["jpeg-cut"] > 40
    assert groups["bomb"] > 10
    assert groups["other-format"] > 20
    assert all(len(image.data) <= MAX_BYTES for image in hostile_images())


def test_each_ends_as_it_should_within_two_seconds_and_with_its_own_reader(opened: set[str]) -> None:
    decoder = Decoder(Preprocessing(), max_pixels=50_000_000)
    wrong, seconds = {}, {}
    for image in hostile_images():
        opened.clear()
        begun = time.thread_time()
        outcome, detail = outcome_of(decoder, image)
        seconds[image.name] = time.thread_time() - begun
        if not is_expected(image, outcome) or not is_readable(detail) or not opened <= ALLOWED:
            wrong[image.name] = (outcome, detail, set(opened))
        if image.group in ("other-format", "wrong-extension"):
            assert not opened, image.name

    assert wrong == {}
    slowest = max(seconds, key=lambda name: seconds[name])
    assert seconds[slowest] < PROMISE_S, slowest


def test_a_worker_outlives_them_in_little_memory_and_serves_the_others(
    producer: Producer, start_worker: StartWorker, alexnet_dir: Path
) -> None:
    # It is little beside what AlexNet takes; each thread may hold a large picture, whatever the cores.
    worker = start_worker(models_dir=alexnet_dir, decode_threads=2)
    photos = [encode(crop, "JPEG") for crop in photo_crops(GOOD)]
    # Many full batches of other photographs than those below: what ordinary work takes is no hostile image's.
    warm = (photo + bytes([number]) for number in range(1, 13) for photo in photos)
    with peak_rss(worker) as ordinary:
        assert {job.state for job in producer.submit(warm).wait(300)} == {JobState.SUCCEEDED}
    hostile = hostile_images()
    # A good photograph after every so many hostile ones.
    every = len(hostile) // GOOD
    mixed: list[tuple[Hostile | None, bytes]] = []
    for index, image in enumerate(hostile):
        mixed.append((image, image.data))
        if index % every == 0 and index // every < GOOD:
            mixed.append((None, photos[index // every] + b"\0"))  # other bytes: an image of its own

    with peak_rss(worker) as peak:
        submission = producer.submit((data for _, data in mixed), rejected="skip")
        jobs = [*submission.wait(300), *(rejection.as_job() for rejection in submission.rejected)]

    assert peak.bytes - ordinary.bytes <= PROMISE_BYTES
    by_place = {int(job.source.split()[-1]): job for job in jobs}
    assert len(by_place) == len(mixed)
    wrong = {
        image.name if image else "a good photograph": (job.state, job.error, job.errors, job.crashes)
        for place, (image, _) in enumerate(mixed)
        if not is_right(image, job := by_place[place])
    }
    assert wrong == {}
    assert sum(image is None for image, _ in mixed) == GOOD
    assert worker.process.poll() is None
    assert worker.terminate() == 0


def outcome_of(decoder: Decoder, image: Hostile) -> tuple[str, str]:
    """Return what becomes of the image at submission and decoding: ``succeeded``, or code and detail."""
    try:
        check_image(image.data, image.name, MAX_BYTES)
        decoder.decode(image.data)
    except ImageError as error:
        return error.code, error.detail
    except AlexqError as error:
        return f"not the image's fault: {error.code}", error.detail
    except Exception as error:
        return f"untyped: {error!r}", ""
    return "succeeded", "-"


def is_expected(image: Hostile, outcome: str) -> bool:
    return outcome == image.expected if isinstance(image.expected, str) else outcome in image.expected


def is_readable(detail: str) -> bool:
    """Return whether it is one line for people: no dump of bytes, which would be full of escapes."""
    return bool(detail) and detail.isprintable() and len(detail) < 400 and detail.count("\\x") < 20


def is_right(image: Hostile | None, job: Job) -> bool:
    """Return whether the job ended as it should, with nothing counted against us."""
    if job.errors or job.crashes:
        return False
    if image is None or image.expected == "succeeded":
        return job.state == "succeeded" and len(job.predictions) == 5
    if job.error is None or job.state not in ("failed", "rejected"):
        return False
    return is_expected(image, job.error.code) and is_readable(job.error.detail)


class Peak:
    """The most resident memory of a worker and its children."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def peak_rss(worker: WorkerProcess) -> Iterator[Peak]:
    """Watch the worker's memory within the context."""
    process = psutil.Process(worker.pid)
    peak = Peak()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak.bytes = max(peak.bytes, rss_of([process, *process.children(recursive=True)]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def rss_of(processes: list[psutil.Process]) -> int:
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # a child that has ended
            continue
    return total
