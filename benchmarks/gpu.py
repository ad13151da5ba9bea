"""What a CUDA device gives: ceilings, the forward pass, decoding, and the whole pipeline.

    python -m benchmarks.gpu [--save] [--only ceilings forward decoding pipeline] [--rounds 5] [--images 4096]

Needs no network: weights are seeded and untrained, images are crops of two photographs. Every answer is
compared with fp32 on the CPU, the reference; no rate is told for work whose answers differ by more than
its precision may. Exit codes: 0 measured, 1 some part failed, 3 there is no CUDA device, so that its
figures are unmeasured; ``--save`` then writes that, until a device has been measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import PIL
import torch
from rich.console import Console

from alexq_schema.models import ModelStore
from alexq_worker.inference.devices import resolve_device
from alexq_worker.inference.torchvision_ops import import_torchvision
from alexq_worker.inference.versions import create_untrained
from benchmarks import gpu_report
from benchmarks.gpu_answers import decoded, reference
from benchmarks.gpu_images import photographs

RESULTS = Path(__file__).parent / "results"
UNMEASURED = RESULTS / "gpu-unmeasured.json"
"""There as long as no device could be had."""
DISTINCT_IMAGES = 256
NO_DEVICE = 3

console = Console()


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures belong to."""
    properties = torch.cuda.get_device_properties(device)
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", f"--id={device.index}"]
        driver = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        driver = "unknown"
    return {
        "device": properties.name,
        "device_memory_gib": round(properties.total_memory / 2**30, 1),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "driver": driver,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions that matter."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": import_torchvision().__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "pillow": PIL.__version__,
    }


def parts(models_dir: Path, device: str, arguments: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return the measurements by name; none has begun."""
    from benchmarks import gpu_decode, gpu_forward

    store = ModelStore(models_dir)
    version = store.activate(create_untrained(store).info.ref)
    files, _ = photographs(DISTINCT_IMAGES)
    pixels = decoded(version, files)
    expected = reference(version, pixels)
    cores = len(os.sched_getaffinity(0))
    rounds: int = arguments.rounds

    def pipeline() -> Any:
        from benchmarks import gpu_pipeline  # brings the producer and psutil

        return gpu_pipeline.pipeline(models_dir, device, files, expected, arguments.images, cores, rounds)

    return {
        "ceilings": lambda: gpu_forward.ceilings(torch.device(device), rounds),
        "forward": lambda: gpu_forward.forward(version, device, pixels, expected, rounds),
        "decoding": lambda: gpu_decode.decoding(version, device, files, expected, cores, rounds),
        "pipeline": pipeline,
    }


def measured(todo: Mapping[str, Callable[[], Any]]) -> tuple[dict[str, Any], bool]:
    """Return each part's result, or why it has none, and whether all have one."""
    results: dict[str, Any] = {}
    for name, measure in todo.items():
        console.print(f"{name} …", style="dim")
        try:
            results[name] = measure()
        except Exception as error:  # noqa: BLE001 - the others are still worth their time
            traceback.print_exc()
            results[name] = {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
        gpu_report.show(name, results[name], console)
    return results, all("failed" not in result for result in results.values())


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result file."""
    path.write_text(json.dumps(record, indent=2) + "\n")
    console.print(f"wrote {path.name}")


def main() -> int:
    """Measure, print tables, write the result file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = ["ceilings", "forward", "decoding", "pipeline"]
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="PART")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4096, help="in one submission through the pipeline")
    parser.add_argument("--save", action="store_true", help="write results/gpu-<name>.json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device was found: GPU figures stay unmeasured", file=sys.stderr)
        if arguments.save and not any(RESULTS.glob("gpu-*.json")):
            write(UNMEASURED, {"device": None, "torch": torch.__version__, "unmeasured": names})
        return NO_DEVICE
    device = resolve_device("cuda")
    record: dict[str, Any] = {"machine": machine(device), "versions": versions(), "rounds": arguments.rounds}
    record["images"] = photographs(1)[1]
    console.print_json(data=record)
    with tempfile.TemporaryDirectory(prefix="alexq-gpu-models-") as models_dir:
        todo = parts(Path(models_dir), str(device), arguments)
        results, is_whole = measured({name: todo[name] for name in arguments.only})
    if arguments.save:
        slug = re.sub(r"[^a-z0-9]+", "-", record["machine"]["device"].lower()).strip("-")
        write(RESULTS / f"gpu-{slug}.json", record | results)
        UNMEASURED.unlink(missing_ok=True)
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
