"""torchvision's classification models, by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from alexq_schema.model_info import Preprocessing
from alexq_worker.inference.torchvision_ops import import_torchvision

# Both have heads beside the last layer that only training uses, and where torchvision publishes weights
# they expect each channel in -1 … 1: it normalises once more inside the network (`transform_input`).
_WITH_AUXILIARY_HEADS: dict[str, tuple[str, ...]] = {
    "googlenet": ("aux1.", "aux2."),
    "inception_v3": ("AuxLogits.",),
}


def names() -> list[str]:
    """Return the names of all classification models; detection, segmentation, video and others are none."""
    models = import_torchvision().models
    known: list[str] = models.list_models(module=models)
    return known


def build(name: str, classes: int) -> nn.Module:
    """Return the network of one of :func:`names`, initialised as torchvision does."""
    options: dict[str, Any] = (
        {"aux_logits": False, "init_weights": False} if name in _WITH_AUXILIARY_HEADS else {}
    )
    network: nn.Module = import_torchvision().models.get_model(
        name, weights=None, num_classes=classes, **options
    )
    return network


def auxiliary(name: str) -> tuple[str, ...]:
    """Return how names of tensors begin that only training needs: they have no place in :func:`build`."""
    return _WITH_AUXILIARY_HEADS.get(name, ())


def preprocessing(name: str) -> Preprocessing:
    """Return what torchvision's own weights of this network expect."""
    weights = import_torchvision().models.get_model_weights(name)
    # Of some networks there are only weights trained otherwise; LINEAR is for 224 pixels, as it is built.
    chosen = next(one for one in weights if one.name == "IMAGENET1K_V1" or "LINEAR" in one.name)
    transforms = chosen.transforms()
    half = (0.5, 0.5, 0.5)
    values = (half, half) if name in _WITH_AUXILIARY_HEADS else (transforms.mean, transforms.std)
    return Preprocessing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        mean=tuple(values[0]),
        std=tuple(values[1]),
    )
