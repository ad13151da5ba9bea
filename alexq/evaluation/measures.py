"""What a set of answers comes to: accuracy, by label, calibration, and what is taken for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel

_BINS: Final = 15


class Answer(BaseModel):
    """What was said of one picture."""

    source: str
    truth: int
    """Index of its label."""
    ranked: list[int]
    """Indices of the predicted labels, best first; empty where there was no answer."""
    probability: float = 0.0
    """Of the first."""
    error: str | None = None
    """Why there was none."""

    @property
    def is_right(self) -> bool:
        """Whether the first label is the true one."""
        return self.ranked[:1] == [self.truth]


class OfClass(BaseModel):
    """One label's pictures."""

    label: str
    images: int
    top1: float
    top5: float


class Bin(BaseModel):
    """Answers of about the same probability."""

    images: int
    probability: float
    """Their mean."""
    accuracy: float


class Measures(BaseModel):
    """All of it; shares are between 0 and 1, and a picture without an answer is not right."""

    images: int
    unanswered: int
    top1: float
    top5: float
    ece: float
    """Expected calibration error: how far the first label's probability is from its accuracy, on average."""
    bins: list[Bin]
    per_class: list[OfClass]
    confusion: list[tuple[int, int, int]]
    """Index of the true label, of the predicted one, and how often; the most frequent first."""


def measure(answers: Sequence[Answer], labels: Sequence[str]) -> Measures:
    """Return what ``answers``, one at least, come to.

    Source of the calibration error: Guo et al. 2017, arXiv:1706.04599, with 15 bins of equal width.
    """
    answered = [answer for answer in answers if answer.ranked]
    bins = _bins(answered)
    pairs = Counter((answer.truth, answer.ranked[0]) for answer in answered)
    return Measures(
        images=len(answers),
        unanswered=len(answers) - len(answered),
        top1=_share(answers, 1),
        top5=_share(answers, 5),
        ece=sum(one.images * abs(one.probability - one.accuracy) for one in bins) / max(1, len(answered)),
        bins=bins,
        per_class=_per_class(answers, labels),
        confusion=[
            (*pair, count) for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
        ],
    )


def worst_mistakes(answers: Sequence[Answer], count: int) -> list[Answer]:
    """Return the answers that were surest of a wrong label."""
    wrong = [answer for answer in answers if answer.ranked and not answer.is_right]
    return sorted(wrong, key=lambda answer: -answer.probability)[:count]


def _share(answers: Sequence[Answer], best: int) -> float:
    return sum(answer.truth in answer.ranked[:best] for answer in answers) / len(answers)


def _per_class(answers: Sequence[Answer], labels: Sequence[str]) -> list[OfClass]:
    of: dict[int, list[Answer]] = {}
    for answer in answers:
        of.setdefault(answer.truth, []).append(answer)
    return [
        OfClass(label=labels[index], images=len(mine), top1=_share(mine, 1), top5=_share(mine, 5))
        for index, mine in sorted(of.items())
    ]


def _bins(answered: Sequence[Answer]) -> list[Bin]:
    filled: dict[int, list[Answer]] = {}
    for answer in answered:
        filled.setdefault(min(_BINS - 1, int(answer.probability * _BINS)), []).append(answer)
    return [
        Bin(
            images=len(mine),
            probability=sum(answer.probability for answer in mine) / len(mine),
            accuracy=_share(mine, 1),
        )
        for _, mine in sorted(filled.items())
    ]
