"""Label every picture that comes into a folder: cat.jpg gets a cat.jpg.json beside it.

    pip install alexq
    export ALEXQ_SERVER=http://127.0.0.1:8080      # and ALEXQ_API_KEY, where the gateway has keys
    python watch_folder.py photos/

A file is taken when it has not changed for two seconds. The program may be killed at any time: what has no
.json yet is handed in again, under a key made of its name and content, so that it stays the same job (for 24
hours). Looking every second works on network file systems too, which do not announce changes.
"""

import hashlib
import io
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from alexq import Client, FailedError, Job, RejectedError

QUIET_S = 2.0
LOOK_S = 1.0
AT_ONCE = 16
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


def complete(folder: Path) -> list[Path]:
    """Return the pictures without a result that nobody writes to any more."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    return [
        path
        for path in found
        if not result_of(path).exists() and time.time() - path.stat().st_mtime > QUIET_S
    ]


def result_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def write(path: Path, job: Job) -> None:
    """Write a result, whole or not at all."""
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(job.model_dump_json(indent=2))
    draft.replace(result_of(path))
    print(path.name, job.label or job.error, flush=True)


def hand_in(client: Client, path: Path) -> None:
    """Classify one picture and write its result; after an error that passes, the next look tries again."""
    try:
        picture = io.BytesIO(path.read_bytes())
        picture.name = path.name  # what the job is called
        key = hashlib.sha256(path.name.encode() + b"\0" + picture.getvalue()).hexdigest()
        job = client.classify(picture, timeout_s=600, idempotency_key=key)
    except RejectedError as error:  # no picture: handing it in again would not help
        job = Job.rejected(path.name, error.code, error.detail)
    except (FailedError, FileNotFoundError) as error:
        print(path.name, error, file=sys.stderr, flush=True)
        return
    write(path, job)


def main(folder: Path) -> None:
    with Client() as client, ThreadPoolExecutor(AT_ONCE) as threads:
        while True:
            list(threads.map(partial(hand_in, client), complete(folder)))
            time.sleep(LOOK_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
