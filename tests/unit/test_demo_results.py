"""What the demo shows is what was answered, and says when that means nothing."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from alexq.demo_results import labelled_table, results_table
from alexq_schema.job import Job, ModelRef, Prediction


def job(source: str, label: str, *, trained: bool) -> Job:
    seen: dict[str, Any] = {
        "job_id": None,
        "source": source,
        "state": "succeeded",
        "attempt": 1,
        "predictions": [Prediction(rank=1, index=0, label=label, probability=0.75)],
        "model": ModelRef(name="alexnet", version="v1", precision="fp32", trained=trained),
        "error": None,
        "timings": {},
    }
    return Job(**seen)


def shown(group: Any) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(group)
    return captured.get()


def test_an_untrained_model_is_called_so() -> None:
    assert "UNTRAINED" in shown(results_table([job("cat.jpg", "tabby", trained=False)]))
    assert "UNTRAINED" not in shown(results_table([job("cat.jpg", "tabby", trained=True)]))


def test_predictions_stand_beside_the_true_labels_and_are_counted() -> None:
    jobs = [job("t/dots/1.jpg", "dots", trained=True), job("t/rings/1.jpg", "dots", trained=True)]

    text = shown(labelled_table(jobs))

    assert "1 of 2 right: accuracy 50.0%" in text
    assert text.count("WRONG") == 1
