"""From labelled files to what is trained on and what is held out, after everything has been looked at.

Every picture is read and decoded once, as a worker would, before a step is made: what is wrong is reported by
name, all at once, and not after an hour.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from alexq_schema.errors import AlexqError
from alexq_schema.labelled import Example, Finding, Labelled, Problem, read_labelled, refuse
from alexq_worker.inference.decode import Decoder


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture that can be read."""

    path: Path
    target: int
    """Index of its label."""
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """Samples, in an order that depends on their names, the seed and nothing else."""

    labels: list[str]
    train: list[Sample]
    held_out: list[Sample]
    notes: list[str]
    """What a person should know although it is no error."""

    @property
    def sha256(self) -> str:
        """Hash of the labels, of every picture and of the side that it is on."""
        digest = hashlib.sha256("\0".join(self.labels).encode())
        for side, samples in ((b"train", self.train), (b"held out", self.held_out)):
            digest.update(side)
            for sample in samples:
                digest.update(f"{sample.target} {sample.sha256}\n".encode())
        return digest.hexdigest()

    def counts(self) -> dict[str, int]:
        """Return how many pictures of each label are trained on."""
        counted = Counter(sample.target for sample in self.train)
        return {label: counted[index] for index, label in enumerate(self.labels)}


def load_dataset(
    source: Path,
    decoder: Decoder,
    *,
    seed: int,
    held_out: float,
    threads: int,
    looked_at: Callable[[Iterable[str], int], Iterable[str]],
) -> Dataset:
    """Read, check and split the labelled pictures at ``source``.

    Args:
        decoder: refuses what a worker would refuse.
        held_out: share of each label's pictures, where the data does not say which.
        looked_at: is given an iterable and its length, to show how far it is.

    Raises:
        DatasetError: names everything that is wrong.
    """
    read = read_labelled(source)
    with ThreadPoolExecutor(threads, "alexq-check") as pool:
        hashes_or_problems = pool.map(lambda example: _look_at(example.path, decoder), read.examples)
        seen = list(looked_at(hashes_or_problems, len(read.examples)))
    findings = [*read.findings]
    good: list[tuple[Example, str]] = []
    for example, found in zip(read.examples, seen, strict=True):
        if found.startswith("!"):
            findings.append(Finding(Problem.UNREADABLE, f"{example.path}: {found[1:]}"))
        else:
            good.append((example, found))
    findings += _contradictions(good)
    dataset = _split(read, good, seed, held_out, findings)
    refuse(findings)
    return dataset


def _look_at(path: Path, decoder: Decoder) -> str:
    """Return the picture's SHA-256, or ``!`` and what is wrong with it."""
    try:
        data = path.read_bytes()
        decoder.decode(data)
    except (AlexqError, OSError) as error:
        return f"!{error}"
    return hashlib.sha256(data).hexdigest()


def _contradictions(good: list[tuple[Example, str]]) -> list[Finding]:
    alike: defaultdict[str, list[Example]] = defaultdict(list)
    for example, sha256 in good:
        alike[sha256].append(example)
    findings = []
    for examples in alike.values():
        names = " = ".join(str(example.path) for example in examples)
        if len({example.label for example in examples}) > 1:
            findings.append(Finding(Problem.CONTRADICTION, names))
        elif len({bool(example.held_out) for example in examples}) > 1:
            findings.append(Finding(Problem.ACROSS_THE_SPLIT, names))
    return findings


def _split(
    read: Labelled, good: list[tuple[Example, str]], seed: int, share: float, findings: list[Finding]
) -> Dataset:
    says_itself = any(example.held_out is not None for example in read.examples)
    train: list[Sample] = []
    held: list[Sample] = []
    notes: list[str] = []
    for target, label in enumerate(read.labels):
        mine: defaultdict[str, list[Example]] = defaultdict(list)
        for example, sha256 in good:
            if example.label == label:
                mine[sha256].append(example)
        if says_itself:
            chosen = {sha256 for sha256, alike in mine.items() if alike[0].held_out}
        else:
            chosen = _chosen(sorted(mine), share, f"{seed}/{label}")
            notes += [
                f"one picture, {len(a)} files: {', '.join(str(e.path) for e in a)}"
                for a in mine.values()
                if len(a) > 1
            ]
        for sha256, alike in mine.items():
            side = held if sha256 in chosen else train
            side += [Sample(example.path, target, sha256) for example in alike]
        if mine and not 0 < len(chosen) < len(mine):
            findings.append(
                Finding(
                    Problem.TOO_FEW,
                    f"{label}: {len(mine)} different pictures, {len(chosen)} of them held out; "
                    "there must be one at least to train on and one to hold out",
                )
            )
    return Dataset(read.labels, train, held, notes)


def _chosen(hashes: list[str], share: float, seed: str) -> set[str]:
    """Return the pictures to hold out: those of one content are on the same side, whatever their names."""
    random.Random(seed).shuffle(hashes)  # noqa: S311 - repeatable, not secret
    return set(hashes[: max(1, round(share * len(hashes)))])
