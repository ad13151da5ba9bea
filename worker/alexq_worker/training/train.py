"""``train``: from labelled pictures to a model version."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from alexq_schema.errors import ModelError, TrainingBusyError, TrainingError
from alexq_schema.models import ModelStore, ModelVersion
from alexq_schema.settings import Settings
from alexq_schema.training import HeldOut, TrainingInfo, TrainModel
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.versions import add_trained
from alexq_worker.training import methods
from alexq_worker.training.checkpoint import Checkpoint, Progress
from alexq_worker.training.curves import write_history
from alexq_worker.training.dataset import Dataset, load_dataset
from alexq_worker.training.distributed import Group, joined
from alexq_worker.training.loop import Loop, class_weights
from alexq_worker.training.measuring import measure
from alexq_worker.training.methods import Workshop
from alexq_worker.training.recipes import Recipe, recipe_of
from alexq_worker.training.reproducible import one_thread, reproducible
from alexq_worker.training.starts import SEEDED, Start, find_start
from alexq_worker.training.telling import Teller

CHECKPOINT_EVERY_S: Final = 120.0
_NOTES: Final = 5


def train(
    request: TrainModel,
    settings: Settings,
    *,
    resume: bool = False,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    teller: Teller | None = None,
) -> ModelVersion:
    """Train what ``request`` says and add it to the models folder; every process of a group calls this.

    Args:
        resume: go on from the last checkpoint, where there is one.
        checkpoint_every_s: time between checkpoints; 0: after every step.

    Raises:
        DatasetError: the labelled pictures cannot be used; names everything that is wrong with them.
        TrainingError: the version is there already, another process trains it, it diverged, or its
            checkpoint is of no use.
        ModelError: the base cannot be used, or the models folder cannot be written.
        DeviceError: the device is not there.
    """
    store = ModelStore(settings.models_dir)
    require_free(store, request.ref)
    work = work_folder(store, request.ref)
    with (
        joined(settings.device) as (group, device),
        reproducible(device),
        _only_one(work, group),
        teller or Teller(quiet=not group.is_first) as told,
    ):
        shop = Workshop(settings, device, group, told, request.seed)
        return _train(request, store, work, shop, resume=resume, checkpoint_every_s=checkpoint_every_s)


def work_folder(store: ModelStore, ref: str) -> Path:
    """Return where a training of ``ref`` keeps its checkpoint, where no listing of versions looks."""
    store.folder(ref)
    return store.models_dir / ".training" / ref


def require_free(store: ModelStore, ref: str) -> None:
    """Raise TrainingError if there is a version ``ref``."""
    try:
        store.find(ref)
    except ModelError:
        return
    raise TrainingError(f"{ref} is there already, and versions never change: choose another version name")


def _train(
    request: TrainModel,
    store: ModelStore,
    work: Path,
    shop: Workshop,
    *,
    resume: bool,
    checkpoint_every_s: float,
) -> ModelVersion:
    group, teller = shop.group, shop.teller
    start = find_start(request, store)
    dataset = group.from_first(lambda: _load(request, start, shop))
    recipe = recipe_of(request, shop.device)
    teller.say(_summary(request, start, dataset, recipe, shop))
    if request.method == "transfer":
        task = methods.transfer(shop, start, dataset, recipe, store.models_dir / ".features")
    else:
        task = methods.full(shop, start, dataset, recipe)

    def held_out(network: torch.nn.Module) -> HeldOut:
        return measure(network, task.held_out(), dataset.labels, group)

    checkpoint = Checkpoint(
        work / "checkpoint.safetensors", _identity(request, start, dataset, recipe, group)
    )
    counts = list(dataset.counts().values())
    loop = Loop(
        network=task.network,
        source=task.source,
        measure=held_out,
        recipe=recipe,
        seed=request.seed,
        patience=request.patience,
        class_weights=class_weights(counts, balanced=request.balanced).to(shop.device),
        device=shop.device,
        group=group,
        checkpoint=checkpoint,
        checkpoint_every_s=checkpoint_every_s,
        watcher=teller,
    )
    with one_thread(wanted=request.method == "transfer"):
        progress, best = loop.run(resume=resume)
    task.network.load_state_dict(best)
    info = _info(request, start, dataset, recipe, progress, held_out(task.network), shop.device)

    def add() -> ModelVersion:
        version = add_trained(
            store,
            request.ref,
            start.architecture,
            task.finish(best),
            dataset.labels,
            source=_source(request, start),
            training=info,
        )
        title = f"{request.ref}, {request.method}, {recipe.name}"
        if not write_history(version.folder / "training", progress.history, title):
            teller.say('no curves.png: that needs matplotlib: pip install "alexq[train]"')
        checkpoint.remove()
        return version

    return group.from_first(add)


def _load(request: TrainModel, start: Start, shop: Workshop) -> Dataset:
    dataset = load_dataset(
        request.data,
        Decoder(start.preprocessing, shop.settings.max_image_pixels),
        seed=request.seed,
        held_out=request.held_out,
        threads=shop.settings.decode_threads,
        looked_at=lambda pictures, total: shop.teller.count("looking at the pictures", pictures, total),
    )
    for note in dataset.notes[:_NOTES]:
        shop.teller.say(f"{note}; they stay on one side of the split")
    if len(dataset.notes) > _NOTES:
        shop.teller.say(f"and {len(dataset.notes) - _NOTES} more pictures that are there several times")
    return dataset


def _summary(request: TrainModel, start: Start, dataset: Dataset, recipe: Recipe, shop: Workshop) -> str:
    what = "a new head on" if request.method == "transfer" else "every weight, from"
    begins = f"{SEEDED} (no pretrained weights here)" if start.name == SEEDED else start.name
    return (
        f"{request.ref}: {len(dataset.labels)} labels, {len(dataset.train)} pictures to train on, "
        f"{len(dataset.held_out)} held out; {what} {begins or 'random ones'}; recipe {recipe.name}, "
        f"{recipe.epochs} epochs of batches of {recipe.batch} on {shop.group.size} × {shop.device}"
    )


def _identity(
    request: TrainModel, start: Start, dataset: Dataset, recipe: Recipe, group: Group
) -> dict[str, Any]:
    """Return everything that decides the outcome, as JSON gives it back."""
    return {
        **asdict(recipe),
        "ref": request.ref,
        "method": request.method,
        "seed": request.seed,
        "balanced": request.balanced,
        "patience": request.patience,
        "data_sha256": dataset.sha256,
        "start_sha256": start.sha256,
        "processes": group.size,
        "torch": torch.__version__,
    }


def _info(
    request: TrainModel,
    start: Start,
    dataset: Dataset,
    recipe: Recipe,
    progress: Progress,
    held_out: HeldOut,
    device: torch.device,
) -> TrainingInfo:
    assert progress.best is not None
    return TrainingInfo(
        method=request.method,
        recipe=recipe.name,
        base=start.name,
        data_sha256=dataset.sha256,
        images=len(dataset.train),
        seed=request.seed,
        epochs=len(progress.history),
        best_epoch=progress.best.epoch,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        balanced=request.balanced,
        device=device.type,
        torch=torch.__version__,
        held_out=held_out,
        classes=dataset.counts(),
    )


def _source(request: TrainModel, start: Start) -> str:
    begun = f" from {start.name}" if start.name else ""
    return f"trained by alexq on {request.data.name}{begun}"


@contextmanager
def _only_one(work: Path, group: Group) -> Iterator[None]:
    """Hold the lock of a training for the length of the block.

    Raises:
        TrainingError: another process trains the same version.
    """
    if not group.is_first:
        yield
        return
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingBusyError(f"another process trains {'/'.join(work.parts[-2:])} now") from error
        yield
