"""The paper's network, layer by layer, and torchvision's others: built, imported, served."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from alexq_schema.errors import DeviceError, ModelInvalidError
from alexq_schema.model_info import Preprocessing
from alexq_schema.models import ModelStore
from alexq_worker.inference import architectures, torchvision_models
from alexq_worker.inference.alexnet2012 import AlexNet2012, TwoHalves
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.torchvision_ops import import_torchvision
from alexq_worker.inference.versions import import_model

CPU = torch.device("cpu")

# Krizhevsky et al. 2012, section 3.5 and figure 2: height = width and number of maps of each layer's output.
PAPER = {
    "conv1": (96, 55, 55),
    "relu1": (96, 55, 55),
    "norm1": (96, 55, 55),
    "pool1": (96, 27, 27),
    "conv2": (256, 27, 27),
    "relu2": (256, 27, 27),
    "norm2": (256, 27, 27),
    "pool2": (256, 13, 13),
    "conv3": (384, 13, 13),
    "relu3": (384, 13, 13),
    "conv4": (384, 13, 13),
    "relu4": (384, 13, 13),
    "conv5": (256, 13, 13),
    "relu5": (256, 13, 13),
    "pool5": (256, 6, 6),
    "drop6": (9216,),
    "fc6": (4096,),
    "relu6": (4096,),
    "drop7": (4096,),
    "fc7": (4096,),
    "relu7": (4096,),
    "fc8": (1000,),
}


def seeded(network: nn.Module) -> nn.Module:
    """Give a network values that keep the size of what passes through it."""
    generator = torch.Generator().manual_seed(2012)
    state = {}
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            state[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
        elif name.endswith("running_var"):
            state[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 3
            state[name] = torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5
    network.load_state_dict(state, assign=True)
    return network.eval()


@pytest.fixture(scope="module")
def paper() -> AlexNet2012:
    network = seeded(architectures.build("alexnet-2012", 1000))
    assert isinstance(network, AlexNet2012)
    return network


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 227, 227, generator=torch.Generator().manual_seed(7))


def test_the_network_of_2012_has_the_papers_60_965_224_parameters(paper):
    assert sum(parameter.numel() for parameter in paper.parameters()) == 60_965_224


def test_every_layer_of_2012_gives_the_papers_shape(paper, images):
    shapes = {}

    def note(name):
        return lambda layer, inputs, output: shapes.update({name: tuple(output.shape[1:])})

    layers = [*paper.features.named_children(), *paper.classifier.named_children()]
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers]
    with torch.inference_mode():
        paper(images[:1])
    for hook in hooks:
        hook.remove()
    assert list(shapes.items()) == list(PAPER.items())
    assert [name for name, layer in layers if getattr(layer, "groups", 1) == 2] == ["conv2", "conv4", "conv5"]
    assert {(layer.kernel_size, layer.stride) for _, layer in layers if isinstance(layer, nn.MaxPool2d)} == {
        (3, 2)
    }


def test_the_response_normalisation_is_the_papers_formula(paper):
    maps = torch.rand(2, 96, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 50
    expected = torch.empty_like(maps)
    for i in range(96):  # b = a / (k + α Σ a²)^β over the maps from i - n/2 to i + n/2
        near = maps[:, max(0, i - 2) : min(95, i + 2) + 1]
        expected[:, i] = maps[:, i] / (2 + 1e-4 * (near**2).sum(1)) ** 0.75
    assert torch.allclose(paper.features.norm1(maps), expected, rtol=1e-12)
    assert not torch.allclose(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)(maps), expected, rtol=1e-2)


def test_two_devices_with_a_half_each_give_what_one_gives(paper, images):
    halves = TwoHalves(paper.state_dict(), (CPU, CPU))
    with torch.inference_mode():
        large = images * 200  # so that the maps of the other half count in the response normalisation
        one, two = paper(large), halves(large)
    assert not torch.equal(one[0], one[1])
    assert torch.allclose(one, two, rtol=0, atol=1e-4 * float(one.abs().max()))


def test_a_half_holds_half_of_every_layer(paper):
    halves = TwoHalves(paper.state_dict(), (CPU, CPU))
    held = [sum(part.numel() for layer in halves._halves.values() for part in layer[half]) for half in (0, 1)]
    assert held == [60_965_224 // 2] * 2
    shapes = {name: tuple(first[0].shape) for name, (first, _) in halves._halves.items()}
    # What each half sees of the layer before: all of it in conv3 and the fully connected layers.
    assert {name: shape[1] for name, shape in shapes.items()} == {
        "conv1": 3,
        "conv2": 48,
        "conv3": 256,
        "conv4": 192,
        "conv5": 192,
        "fc6": 9216,
        "fc7": 4096,
        "fc8": 4096,
    }


def imported(tmp_path, architecture: str, classes: int = 3):
    weights, labels = tmp_path / "mine.safetensors", tmp_path / "labels.txt"
    state = seeded(architectures.build(architecture, classes)).state_dict()
    safetensors.torch.save_file(state, weights)
    labels.write_text("".join(f"label {number}\n" for number in range(classes)))
    return import_model(ModelStore(tmp_path / "models"), "mine/v1", weights, labels, architecture), state


def test_an_engine_serves_2012_on_one_device_or_two(tmp_path):
    version, _ = imported(tmp_path, "alexnet-2012")
    assert version.info.preprocessing == Preprocessing(crop=227)
    answers = []
    for device in ("cpu", "cpu,cpu"):
        engine = Engine.load(version, device=device, precision="fp32", max_batch=2)
        engine.warm_up()
        assert engine.device_name.replace(" ", "") == device
        batch = engine.new_batch()
        assert batch.shape == (2, 227, 227, 3)
        batch[:] = np.random.default_rng(0).integers(0, 256, batch.shape, dtype=np.uint8)
        answers.append(engine.classify(batch))
    one, two = answers
    assert np.array_equal(one.indices, two.indices)
    assert np.abs(one.probabilities - two.probabilities).max() < 1e-4


def test_two_devices_are_refused_for_a_network_without_halves(version):
    with pytest.raises(DeviceError, match=r"halves of alexnet-2012; model alexnet/.* is of alexnet"):
        Engine.load(version, device="cpu,cpu", precision="fp32", max_batch=1)


def test_a_network_of_torchvision_is_imported_and_served_with_its_buffers(tmp_path):
    version, state = imported(tmp_path, "mobilenet_v3_small")
    assert state["features.0.1.num_batches_tracked"].dtype == torch.int64
    stored = safetensors.torch.load_file(version.weights_path)
    assert all(torch.equal(stored[name], tensor) for name, tensor in state.items())
    engine = Engine.load(version, device="cpu", precision="fp32", max_batch=2)
    engine.warm_up()
    batch = engine.new_batch()
    batch[:] = np.random.default_rng(0).integers(0, 256, batch.shape, dtype=np.uint8)
    network = torchvision_models.build("mobilenet_v3_small", 3).eval()
    network.load_state_dict(state)
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.from_numpy(batch).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        expected = network((pixels - mean) / std).softmax(1).sort(1, descending=True).values
    assert np.abs(engine.classify(batch).probabilities - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "head", "crop"),
    [
        *(("alexnet-2012", "classifier.fc8", 227), ("alexnet", "classifier.6", 224)),
        *(("squeezenet1_1", "classifier.1", 224), ("resnet18", "fc", 224), ("vit_b_16", "heads.head", 224)),
        *(
            ("regnet_y_400mf", "fc", 224),
            ("inception_v3", "fc", 299),
            ("efficientnet_v2_s", "classifier.1", 384),
        ),
    ],
)
def test_the_head_and_the_input_of_a_network_are_found(name, head, crop):
    before = torch.random.get_rng_state()
    architecture = architectures.find_architecture(name)
    assert (architecture.head, architecture.preprocessing.crop) == (head, crop)
    state = architectures.build(name, 7).state_dict()
    assert len(state[f"{head}.weight"]) == 7
    assert state[f"{head}.weight"].is_meta
    assert torch.equal(before, torch.random.get_rng_state())


def test_heads_that_only_training_needs_are_left_out(tmp_path):
    models = import_torchvision().models
    state = seeded(models.googlenet(num_classes=3, init_weights=False)).state_dict()
    assert "aux1.fc2.bias" in state
    weights, labels = tmp_path / "mine.pth", tmp_path / "labels.txt"
    torch.save(state, weights)
    labels.write_text("a\nb\nc\n")
    version = import_model(ModelStore(tmp_path / "models"), "mine/v1", weights, labels, "googlenet")
    assert not [name for name in safetensors.torch.load_file(version.weights_path) if "aux" in name]
    assert version.info.preprocessing.mean == (0.5, 0.5, 0.5)
    Engine.load(version, device="cpu", precision="fp32", max_batch=1).warm_up()


@pytest.mark.parametrize(
    "name", ["fasterrcnn_resnet50_fpn", "fcn_resnet50", "r3d_18", "quantized_resnet18", "os"]
)
def test_only_classification_models_are_built(name):
    with pytest.raises(ModelInvalidError, match=rf"'{name}' is unknown .*torchvision's \d+ classification"):
        architectures.build(name, 10)
