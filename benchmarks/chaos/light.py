"""A light model version, for what counts, waits or kills and does not ask what AlexNet says.

AlexNet's 244 MB cost a worker's start three seconds of CPU, and each image thirty milliseconds; these 5 MB
cost half a second, and one millisecond. Importing this does not import torch.
"""

from __future__ import annotations

from typing import Final

from alexq_schema.model_info import Preprocessing
from alexq_schema.models import ModelStore, ModelVersion

REF: Final = "alexnet/light"
NETWORK: Final = "shufflenet_v2_x0_5"
PREPROCESSING: Final = Preprocessing(resize=72, crop=64)


def create_light(store: ModelStore) -> ModelVersion:
    """Return ``alexnet/light``: torchvision's smallest network on 64 pixels, by the service's model's name.

    ImageNet's labels on seeded weights whose answers differ from image to image.
    """
    import torch

    from alexq_worker.inference import architectures
    from alexq_worker.inference.torchvision_ops import import_torchvision
    from alexq_worker.inference.version_folders import find_intact, write_version

    if (there := find_intact(store, REF)) is not None:
        return there
    labels = list(import_torchvision().models.AlexNet_Weights.IMAGENET1K_V1.meta["categories"])
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in architectures.build(NETWORK, len(labels)).state_dict().items():
        if name.endswith("running_var") or (name.endswith(".weight") and tensor.ndim == 1):
            state[name] = torch.ones(tensor.shape)  # a batch normalisation that changes nothing
        elif name.endswith(".weight"):
            spread = (2 / tensor[0].numel()) ** 0.5  # He's variance, as in create_untrained
            state[name] = torch.randn(tensor.shape, generator=generator) * spread
        else:
            state[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    return write_version(
        store,
        REF,
        NETWORK,
        state,
        labels,
        trained=False,
        source="random, for tests",
        preprocessing=PREPROCESSING,
    )
