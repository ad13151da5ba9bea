"""What a precision brings end to end: int8, bf16 and fp32 through the queue, on a model that was trained.

    python -m benchmarks.precision [--rounds 5] [--seconds 10] [--save]

A classifier of generated textures is trained and quantised (:mod:`alexq_worker.training.texture_model`,
``alexq models quantize``); then a stack for each precision, all warm at once, takes turns with the same
pictures, which neither training nor calibration has seen. Images/s and CPU time an image are told as
ratios within a round, medians over the rounds. Exit code 1: a precision's best labels agree with fp32's on
less than 0.99 of the pictures, so that its speed means nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from alexq_schema.models import ModelStore
from alexq_schema.names import Precision
from alexq_schema.settings import Settings, usable_cores
from alexq_worker.inference.quantising import quantize
from alexq_worker.training.texture_model import TEXTURES_REF, ensure_textures
from alexq_worker.training.textures import LABELS, write_set
from benchmarks.conditions import conditions
from benchmarks.throughput.alexq_rows import OneSubmission
from benchmarks.throughput.contender import Work
from benchmarks.throughput.report import RESULTS, Round, spread
from benchmarks.throughput.rounds import one_round

PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "bf16", "int8")
MIN_AGREEMENT = 0.99
CALIBRATED_ON, MEASURED_ON = 30_000, 40_000
"""First seeds of the pictures of each; a training's begin at 0, the demo's at 10,000."""
EACH = 32


def main() -> int:
    """Measure, print the table, return the exit code."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="alexq-precision-", ignore_cleanup_errors=True) as name:
        result = measure(Path(name), arguments.rounds, arguments.seconds)
    show(result)
    if arguments.save:
        (RESULTS / "precision.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if min(row["agreement"] for row in result["rows"]) >= MIN_AGREEMENT else 1


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="what a round of fp32 takes, about")
    parser.add_argument("--save", action="store_true", help="write results/precision.json")
    return parser.parse_args()


def measure(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the figures of every precision, and how its answers agree with fp32's."""
    console = Console(stderr=True)
    models_dir = folder / "models"
    version = ensure_textures(Settings.load(data_dir=folder, models_dir=models_dir, device="cpu"))
    store = ModelStore(models_dir)
    write_set(folder / "calibration", EACH, CALIBRATED_ON)
    small = quantize(
        store,
        TEXTURES_REF,
        folder / "calibration",
        f"{TEXTURES_REF}-int8",
        max_pixels=10**7,
        say=console.print,
    )
    store.activate(small.info.ref)
    pictures = write_set(folder / "pictures", EACH, MEASURED_ON)
    images = [path.read_bytes() for path, _ in pictures]
    truth = [LABELS.index(label) for _, label in pictures]
    with ExitStack() as stack:
        contenders: dict[Precision, OneSubmission] = {}
        works: dict[Precision, Work] = {}
        best: dict[Precision, list[int]] = {}
        for precision in PRECISIONS:
            contenders[precision] = contender = OneSubmission()
            stack.callback(contender.stop)
            works[precision] = work = Work(images, models_dir, precision, usable_cores())
            (folder / precision).mkdir()
            contender.start(work, folder / precision)
            best[precision] = contender.classify(images).best
        started = time.perf_counter()
        contenders["fp32"].classify(images)
        count = max(len(images), round(seconds * len(images) / (time.perf_counter() - started)))
        done: dict[Precision, list[Round]] = {precision: [] for precision in PRECISIONS}
        for number in range(rounds):
            for precision, contender in contenders.items():
                one = one_round(precision, contender, works[precision], count, best[precision], peak_bytes=0)
                done[precision].append(one)
                console.print(f"round {number + 1}, {precision}: {one.images_per_s:.1f} images/s")
    assert small.info.agreement is not None
    return {
        **conditions("torch", "torchvision", "pillow"),
        "features": sorted(name for name, there in torch.cpu.get_capabilities().items() if there is True),
        "model": f"{version.info.ref}, {len(LABELS)} labels",
        "images_a_round": count,
        "rounds": rounds,
        "rows": [
            {
                "precision": precision,
                "images_per_s": spread([one.images_per_s for one in done[precision]], 1),
                "cpu_ms_per_image": spread([1e3 * one.cpu_s_per_image for one in done[precision]], 2),
                "speed_to_fp32": _ratio(done, precision, "fp32"),
                "speed_to_bf16": _ratio(done, precision, "bf16"),
                "agreement": _share_equal(best[precision], best["fp32"]),
                "right": _share_equal(best[precision], truth),
            }
            for precision in PRECISIONS
        ],
    }


def _ratio(done: dict[Precision, list[Round]], one: Precision, other: Precision) -> float:
    pairs = zip(done[one], done[other], strict=True)
    return round(statistics.median(a.images_per_s / b.images_per_s for a, b in pairs), 3)


def _share_equal(found: list[int], expected: list[int]) -> float:
    return round(sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected), 4)


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("precision", "images/s", "CPU ms an image", "× fp32", "× bf16", "agrees with fp32", "right")
    for row in result["rows"]:
        table.add_row(
            row["precision"],
            f"{row['images_per_s']['median']:.1f}",
            f"{row['cpu_ms_per_image']['median']:.2f}",
            f"{row['speed_to_fp32']:.2f}",
            f"{row['speed_to_bf16']:.2f}",
            f"{row['agreement']:.4f}",
            f"{row['right']:.4f}",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
