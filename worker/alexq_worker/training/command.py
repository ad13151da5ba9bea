"""``train`` among the worker's model commands."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from alexq_schema.models import ModelStore
from alexq_schema.settings import Settings
from alexq_schema.training import TrainModel
from alexq_worker.model_output import report, say


class Method(StrEnum):
    """How much is trained."""

    TRANSFER = "transfer"
    FULL = "full"


class RecipeName(StrEnum):
    """How it is trained."""

    MODERN = "modern"
    PAPER = "paper"


def train(
    data: Annotated[
        Path,
        typer.Argument(help="A folder with one folder of pictures a label, or a CSV file of path,label."),
    ],
    ref: Annotated[str, typer.Option("--as", metavar="NAME/VERSION", help="What to call it.")],
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME/VERSION",
            help="The version to begin from [the pretrained AlexNet, else features that need no network].",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="transfer: a new head on frozen features; full: every weight.")
    ] = Method.TRANSFER,
    recipe: Annotated[
        RecipeName,
        typer.Option(help="modern: AdamW, cosine, label smoothing; paper: SGD, steps, PCA colour (2012)."),
    ] = RecipeName.MODERN,
    architecture: Annotated[
        str | None, typer.Option(help="The network that --method full begins anew.", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Times through the pictures [the recipe's].", show_default=False)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Pictures in a step [the recipe's].", show_default=False)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="At its highest [the recipe's].", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed and data, same weights, on one machine's CPU.")] = 0,
    held_out: Annotated[
        float, typer.Option(help="Share of each label's pictures to measure with, where DATA has no val.")
    ] = 0.2,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Let rare labels weigh as much as frequent ones.")
    ] = False,
    mixed_precision: Annotated[
        bool | None,
        typer.Option(help="bfloat16 in the forward pass [modern recipe on CUDA].", show_default=False),
    ] = None,
    patience: Annotated[
        int, typer.Option(help="Stop after so many epochs without a lower held-out loss; 0: never.")
    ] = 0,
    checkpoint_every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Between checkpoints; 0: every step.")
    ] = 120.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of this training.")
    ] = False,
    activate: Annotated[bool, typer.Option("--activate", help="Make it the version that is served.")] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Hand it to an `alexq models train-worker`, which sees DATA too.")
    ] = False,
) -> None:
    """Train a version on your own labels. Several devices: under torchrun."""
    request = TrainModel.of(
        data=data.absolute(),
        ref=ref,
        base=base,
        architecture=architecture,
        method=method.value,
        recipe=recipe.value,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        held_out=held_out,
        balanced=balanced,
        mixed_precision=mixed_precision,
        patience=patience,
        activate=activate,
    )
    if queue:
        _hand_in(request)
        return
    from alexq_worker.training.train import train as run  # torch takes seconds

    settings = Settings.load()
    version = run(request, settings, resume=resume, checkpoint_every_s=checkpoint_every)
    if int(os.environ.get("RANK", "0")):
        return
    training = version.info.training
    assert training is not None
    measured = training.held_out
    say(
        f"held out: {measured.top1:.1%} right, {measured.top5:.1%} among the first five "
        f"({measured.images} pictures, epoch {training.best_epoch})"
    )
    report(ModelStore(settings.models_dir), version, activate=activate)


def training(
    training_id: Annotated[UUID, typer.Argument(metavar="ID", help="What `train --queue` printed.")],
    cancel: Annotated[bool, typer.Option("--cancel", help="End it; its checkpoint stays.")] = False,
) -> None:
    """Show how far a queued training is, as one JSON object, or cancel it."""
    from alexq_worker.training import queue

    settings = Settings.connected()
    if cancel:
        queue.cancel(settings, training_id)
    typer.echo(json.dumps(queue.look_at(settings, training_id)))


def _hand_in(request: TrainModel) -> None:
    from alexq_worker.training import queue

    training_id = queue.hand_in(Settings.connected(), request)
    say(f"{request.ref} waits for an `alexq models train-worker`; see `alexq models training {training_id}`")
    typer.echo(str(training_id))
