"""A training's history as a picture and as numbers, beside the version's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from alexq_worker.training.checkpoint import Epoch


def write_history(folder: Path, history: Sequence[Epoch], title: str) -> bool:
    """Write ``history.json`` and, where matplotlib is installed, ``curves.png``; return whether it is."""
    folder.mkdir(exist_ok=True)
    epochs = [asdict(epoch) for epoch in history]
    (folder / "history.json").write_text(json.dumps(epochs, indent=1) + "\n", "utf-8")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    numbers = [epoch.epoch for epoch in history]
    best = min(history, key=lambda epoch: epoch.held_out_loss)
    losses, accuracies = figure.subplots(1, 2)
    losses.plot(numbers, [epoch.loss for epoch in history], label="training")
    losses.plot(numbers, [epoch.held_out_loss for epoch in history], label="held out")
    accuracies.plot(numbers, [epoch.accuracy for epoch in history], label="training")
    accuracies.plot(numbers, [epoch.held_out_top1 for epoch in history], label="held out")
    for axes, what in ((losses, "loss"), (accuracies, "accuracy")):
        axes.axvline(best.epoch, color="0.6", linestyle=":", label="best")
        axes.set(xlabel="epoch", ylabel=what)
        axes.grid(alpha=0.3)
        axes.legend()
    accuracies.set_ylim(0, 1.02)
    figure.savefig(folder / "curves.png", dpi=120)
    return True
