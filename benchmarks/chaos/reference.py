"""What the right answers are: the notebook's code on the same weights, with nothing of alexq's between.

The reference is torchvision's transforms and network in fp32, one image at a time; alexq contributes the
seeded weights file only, and the shim that lets torchvision be imported beside a CPU build of torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image

from alexq_schema.models import ModelStore, ModelVersion
from alexq_worker.inference.torchvision_ops import import_torchvision
from alexq_worker.inference.versions import create_untrained
from benchmarks.chaos.light import create_light
from benchmarks.images import jpegs

IMAGES = 40
"""Distinct images that submissions draw from."""
POISON = IMAGES
"""The number of one more, which a scenario makes deadly."""
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Answers:
    """Distinct images in a folder, ``0.jpg`` …, and every class's probability for each."""

    folder: Path
    models_dir: Path
    labels: list[str]
    probabilities: NDArray[np.float32]
    """float32[images, classes]."""
    number_of: dict[str, int]
    """Image number by SHA-256."""

    def fault(self, image: int, predictions: list[dict[str, Any]]) -> str | None:
        """Return what is wrong with a job's predictions for ``image``, or None."""
        row = self.probabilities[image]
        if len(predictions) != 5:
            return f"{len(predictions)} predictions"
        indices = [int(prediction["index"]) for prediction in predictions]
        if len(set(indices)) != 5:
            return "a class twice"
        best = np.sort(row)[::-1][:5]
        for place, prediction in enumerate(predictions):
            index, probability = indices[place], float(prediction["probability"])
            if prediction["label"] != self.labels[index]:
                return f"class {index} is not labelled {prediction['label']!r}"
            # The class must have its probability, and that must be the place's: ties may change places.
            if abs(probability - row[index]) > TOLERANCE or abs(probability - best[place]) > TOLERANCE:
                return f"image {image}: class {index} has {probability:.4f}, expected {row[index]:.4f}"
        return None


def prepare(folder: Path, *, is_light: bool) -> Answers:
    """Make images, weights and expected answers below ``folder``, of AlexNet or of a light network."""
    store = ModelStore(folder / "models")
    version = create_light(store) if is_light else create_untrained(store)
    store.activate(version.info.ref)
    images = jpegs(IMAGES + 1)
    (folder / "images").mkdir()
    for number, data in enumerate(images):
        (folder / "images" / f"{number}.jpg").write_bytes(data)
    return Answers(
        folder=folder / "images",
        models_dir=store.models_dir,
        labels=version.read_labels(),
        probabilities=_classify(version, images),
        number_of={hashlib.sha256(data).hexdigest(): number for number, data in enumerate(images)},
    )


def _classify(version: ModelVersion, images: list[bytes]) -> NDArray[np.float32]:
    torchvision = import_torchvision()
    transforms = torchvision.transforms
    preprocess = transforms.Compose(
        [
            transforms.Resize(version.info.preprocessing.resize),
            transforms.CenterCrop(version.info.preprocessing.crop),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    network = torchvision.models.get_model(version.info.architecture, weights=None)
    network.load_state_dict(safetensors.torch.load_file(version.weights_path))
    network.eval()
    rows = []
    with torch.inference_mode():
        for data in images:
            with Image.open(BytesIO(data)) as image:
                inputs = preprocess(image.convert("RGB")).unsqueeze(0)
            rows.append(network(inputs).softmax(dim=1)[0].numpy())
    return np.stack(rows)
