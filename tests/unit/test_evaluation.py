"""What a set of answers comes to, and a report that shows strangers' names without obeying them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from alexq.evaluation.measures import Answer, measure, worst_mistakes
from alexq.evaluation.queueing import truths
from alexq.evaluation.report import Report, write_report
from alexq_schema.errors import DatasetError
from alexq_schema.labelled import Example

LABELS = ["cat", "dog", "<b>horse</b>", "owl", "fox", "bee"]


def answer(truth: int, *ranked: int, probability: float = 0.5, source: str = "x.jpg") -> Answer:
    return Answer(source=source, truth=truth, ranked=list(ranked), probability=probability)


def test_accuracy_counts_a_picture_without_an_answer_as_wrong() -> None:
    found = measure(
        [answer(0, 0, 1, 2, 3, 4), answer(0, 1, 2, 3, 4, 0), answer(1, 0, 2, 3, 4, 5), answer(1)], LABELS
    )

    assert (found.images, found.unanswered) == (4, 1)
    assert (found.top1, found.top5) == (0.25, 0.5)
    assert [(of.label, of.top1, of.top5) for of in found.per_class] == [("cat", 0.5, 1.0), ("dog", 0.0, 0.0)]
    assert sorted(found.confusion) == [(0, 0, 1), (0, 1, 1), (1, 0, 1)]


def test_calibration_is_zero_when_probabilities_are_kept_and_large_when_they_are_not() -> None:
    kept = [answer(0, 0 if n < 7 else 1, probability=0.7) for n in range(10)]
    boasting = [answer(0, 0 if n < 7 else 1, probability=1.0) for n in range(10)]

    assert measure(kept, LABELS).ece == pytest.approx(0, abs=1e-9)
    assert measure(boasting, LABELS).ece == pytest.approx(0.3)


def test_the_surest_mistakes_come_first() -> None:
    answers = [answer(0, 1, probability=p / 10) for p in range(5)] + [
        answer(0, 0, probability=1.0),
        answer(1),
    ]

    assert [one.probability for one in worst_mistakes(answers, 2)] == [0.4, 0.3]


def test_a_report_is_one_file_that_escapes_labels_and_file_names(tmp_path: Path) -> None:
    name = '"><script>alert(1)</script>.jpg'
    picture = tmp_path / name.replace("/", "∕")
    Image.new("RGB", (40, 30), "red").save(picture, "JPEG")
    answers = [answer(2, 0, source=str(picture)), answer(0, 2, source="gone.jpg"), answer(1, 1)]
    report = Report(
        model="a/<i>",
        precision="fp32",
        weights_sha256="0" * 64,
        data="<data>",
        images_per_s=3.0,
        measures=measure(answers, LABELS),
        mistakes=worst_mistakes(answers, 5),
        unanswered=[],
    )

    page = write_report(tmp_path / "report", report, LABELS).read_text()

    assert "<script>" not in page
    assert "<b>horse" not in page
    assert "&lt;b&gt;horse&lt;/b&gt;" in page
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 2
    for file in ("confusion.png", "mistakes.png"):
        Image.open(io.BytesIO((tmp_path / "report" / file).read_bytes())).verify()
    assert Report.model_validate_json((tmp_path / "report" / "report.json").read_text()) == report


def examples(*labels: str) -> list[Example]:
    return [Example(Path(f"{label}/1.jpg"), label) for label in labels]


def test_labels_are_found_by_name_or_by_order() -> None:
    assert truths(examples("dog", "cat"), LABELS, by_order=False) == {"dog/1.jpg": 1, "cat/1.jpg": 0}
    synsets = examples("n06", "n01", "n03", "n02", "n05", "n04")
    assert truths(synsets, LABELS, by_order=True)["n06/1.jpg"] == 5
    with pytest.raises(DatasetError, match="--by-order"):
        truths(synsets, LABELS, by_order=False)
    with pytest.raises(DatasetError, match="2 labels and the model 6"):
        truths(examples("n1", "n2"), LABELS, by_order=True)
    with pytest.raises(DatasetError, match="more than once"):
        truths(examples("crane"), ["crane", "maillot", "crane"], by_order=False)
