"""The training loop: steps, epochs, checkpoints, early stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from alexq_schema.errors import TrainingError
from alexq_schema.training import HeldOut
from alexq_worker.training.checkpoint import Checkpoint, Epoch, Progress
from alexq_worker.training.distributed import Group
from alexq_worker.training.recipes import Recipe
from alexq_worker.training.reproducible import seed_step
from alexq_worker.training.sources import Batch, Source


class Watcher(Protocol):
    """Is told how a training goes."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float, accuracy: float) -> None:
        """Be told of a step: number ``step`` of ``steps``, and what its epoch has come to so far."""

    def epoch(self, done: Epoch, epochs: int) -> None:
        """Be told of an epoch."""


@dataclass
class Loop:
    """One training: everything that a step needs."""

    network: nn.Module
    source: Source
    measure: Callable[[nn.Module], HeldOut]
    """On what is held out."""
    recipe: Recipe
    seed: int
    patience: int
    class_weights: Tensor
    """float[K] with a mean of 1 over the training pictures."""
    device: torch.device
    group: Group
    checkpoint: Checkpoint
    checkpoint_every_s: float
    watcher: Watcher

    def run(self, *, resume: bool) -> tuple[Progress, dict[str, Tensor]]:
        """Train to the end; return the history and the weights of the best epoch.

        Raises:
            TrainingError: the loss is no number any more, or the checkpoint is of no use.
        """
        optimiser = self.recipe.make_optimiser(p for p in self.network.parameters() if p.requires_grad)
        self.network.train()
        loaded = self.checkpoint.load(self.network, optimiser) if resume else None
        progress, best = loaded or (Progress(), {})
        parallel = self.group.wrap(self.network, self.device)
        per_epoch = math.ceil(self.source.size / self.recipe.batch)
        steps = per_epoch * self.recipe.epochs
        saved_at = time.monotonic()
        while progress.step < steps and not progress.is_stopped:
            epoch, first = divmod(progress.step, per_epoch)
            with closing(self.source.batches(epoch, self.recipe.batch, first)) as batches:
                for number, batch in enumerate(batches, first):
                    size = min(self.recipe.batch, self.source.size - number * self.recipe.batch)
                    self._step(parallel, optimiser, batch, size, progress, steps)
                    loss, accuracy = progress.loss_sum / progress.seen, progress.correct / progress.seen
                    self.watcher.step(epoch + 1, self.recipe.epochs, progress.step, steps, loss, accuracy)
                    if number + 1 == per_epoch:
                        best = self._end_epoch(progress, best, optimiser.param_groups[0]["lr"])
                    if self.group.is_first and time.monotonic() - saved_at >= self.checkpoint_every_s:
                        self.checkpoint.save(progress, self.network, optimiser, best)
                        saved_at = time.monotonic()
        return progress, best

    def _step(
        self,
        parallel: nn.Module,
        optimiser: torch.optim.Optimizer,
        batch: Batch,
        size: int,
        progress: Progress,
        steps: int,
    ) -> None:
        inputs, targets = batch
        for group in optimiser.param_groups:
            group["lr"] = self.recipe.rate(progress.step, steps)
        seed_step(self.seed, progress.step, self.group.rank)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.mixed_precision):
            logits = parallel(inputs)
        losses = functional.cross_entropy(
            logits.float(), targets, reduction="none", label_smoothing=self.recipe.label_smoothing
        )
        # Gradients are averaged over the processes, whose shares may differ by one picture.
        loss = (losses * self.class_weights[targets]).sum() * (self.group.size / size)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            right = (logits.argmax(1) == targets).sum()
            sums = self.group.total(torch.stack([losses.sum(), right.to(losses.dtype)]).detach())
        loss_sum, correct = sums.tolist()
        if not math.isfinite(loss_sum):
            raise TrainingError(
                f"the loss is {loss_sum} at step {progress.step + 1}: the training has diverged; "
                f"lower the learning rate ({self.recipe.learning_rate:g}) with --learning-rate"
            )
        progress.step += 1
        progress.loss_sum += loss_sum
        progress.correct += correct
        progress.seen += size

    def _end_epoch(self, progress: Progress, best: dict[str, Tensor], rate: float) -> dict[str, Tensor]:
        held_out = self.measure(self.network)
        done = Epoch(
            epoch=len(progress.history) + 1,
            learning_rate=rate,
            loss=progress.loss_sum / progress.seen,
            accuracy=progress.correct / progress.seen,
            held_out_loss=held_out.loss,
            held_out_top1=held_out.top1,
        )
        progress.history.append(done)
        progress.loss_sum = progress.correct = progress.seen = 0.0
        self.watcher.epoch(done, self.recipe.epochs)
        assert progress.best is not None
        if progress.best is done:
            best = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
        elif self.patience and done.epoch - progress.best.epoch >= self.patience:
            progress.is_stopped = True
        return best


def class_weights(counts: list[int], *, balanced: bool) -> Tensor:
    """Return a weight for each label's pictures, with a mean of 1 over all pictures.

    Args:
        counts: training pictures of each label, none 0.
        balanced: whether all labels weigh the same, however many pictures they have.
    """
    if not balanced:
        return torch.ones(len(counts))
    of = torch.tensor(counts, dtype=torch.float32)
    return of.sum() / (len(counts) * of)
