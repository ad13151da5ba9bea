"""int8 versions: calibrated on the user's images, compared on others, chosen where they are good enough."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from alexq_schema.errors import DeviceError, ModelError, ModelInvalidError, UsageError
from alexq_schema.model_info import Agreement, Preprocessing
from alexq_schema.models import ModelStore, ModelVersion
from alexq_worker.inference import architectures, int8, quantising
from alexq_worker.inference import precision as precisions
from alexq_worker.inference.agreement import agreement
from alexq_worker.inference.decode import Decoder
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.versions import import_model

CPU = torch.device("cpu")
IMAGES = 72
AGREES = Agreement(images=400, top1=0.995, top5=1, kl=0.01, per_class={})
DIFFERS = AGREES.model_copy(update={"top1": 0.9949})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures that are mostly red, green or blue, in one folder each, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(8)
    for number in range(IMAGES):
        pixels = chance.integers(0, 90, (60, 80, 3))
        pixels[..., number % 3] += 140
        path = folder / "rgb"[number % 3] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture
def colours(tmp_path, tiny_alexnet, tiny_state) -> ModelVersion:
    """A network that names the strongest channel: its convolution averages each, the head compares them."""
    state = {name: torch.zeros_like(tensor) for name, tensor in tiny_state(3).items()}
    for channel in range(3):
        state["conv.weight"][channel, channel] = 1 / 256
        state["head.weight"][channel, channel] = 4.0
    weights, labels = tmp_path / "colours.safetensors", tmp_path / "labels.txt"
    safetensors.torch.save_file(state, weights)
    labels.write_text("red\ngreen\nblue\n")
    return import_model(ModelStore(tmp_path / "models"), "colours/v1", weights, labels)


def quantize(version: ModelVersion, folder: Path, as_ref: str = "colours/v1-int8") -> ModelVersion:
    store = ModelStore(version.folder.parents[1])
    said: list[str] = []
    made = quantising.quantize(
        store, version.info.ref, folder, as_ref, max_pixels=10**6, say=lambda text: said.append(text)
    )
    assert len(said) == 4
    return made


def engine(version: ModelVersion, precision, device: str = "cpu") -> Engine:
    engine = Engine.load(version, device=device, precision=precision, max_batch=8)
    engine.warm_up()
    return engine


@pytest.fixture
def made(colours, folder) -> ModelVersion:
    return quantize(colours, folder)


def test_a_quantised_version_says_what_it_is_and_how_it_agrees(made, colours):
    info = made.info
    assert (info.ref, info.precision, info.trained) == ("colours/v1-int8", "int8", True)
    assert info.quantisation.of == "colours/v1"
    assert info.quantisation.of_sha256 == colours.info.weights_sha256
    assert info.quantisation.calibration_images == IMAGES // 4
    for precision in ("int8", "bf16"):
        assert info.agreement is not None
        found = info.agreement[precision]
        assert found.images == IMAGES - IMAGES // 4
        assert (found.top1, found.top5) == (1, 1)  # one channel is far above the others
        assert found.kl < 0.01
        assert sum(one.images for one in found.per_class.values()) == found.images
        assert set(found.per_class) == {"red", "green", "blue"}
    stored = json.loads((made.folder / "model.json").read_text())
    assert stored["agreement"]["int8"]["top1"] == 1.0


def test_int8_is_served_and_names_itself_while_fp32_stays_what_it_was(made, colours, folder):
    pixels = quantising.read_pictures(folder, Decoder(Preprocessing(), 10**6), 224).held_out[:8]
    before, same, fast = (
        engine(version, precision).classify(pixels.copy())
        for version, precision in ((colours, "fp32"), (made, "fp32"), (made, "int8"))
    )
    assert np.array_equal(before.probabilities, same.probabilities)
    assert np.array_equal(before.indices[:, 0], fast.indices[:, 0])
    assert 0 < np.abs(before.probabilities - fast.probabilities).max() < 0.03
    assert engine(made, "int8").model_ref.precision == "int8"


def test_other_networks_are_quantised_layer_by_layer_but_for_their_heads():
    head = architectures.find_architecture("squeezenet1_1").head
    network = architectures.build("squeezenet1_1", 5)
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * (2 / tensor[0].numel()) ** 0.5
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    with torch.inference_mode():
        expected = network(images)
    scales = int8.calibrated(network, head, [images], "it")
    again = architectures.build("squeezenet1_1", 5)
    again.load_state_dict(state, assign=True)
    module = int8.quantised(again, head, 64, scales, "it")
    with torch.inference_mode():
        assert (module(images) - expected).norm() < 0.05 * expected.norm()
    convolutions = [
        layer
        for name, layer in module.named_modules()
        if "Conv" in type(layer).__name__ and not name.startswith(head)
    ]
    assert len(convolutions) == 25
    assert [weight.dtype for weight in module.get_submodule(head).parameters()] == 2 * [torch.float32]
    assert {layer.weight().dtype for layer in convolutions} == {torch.qint8}
    assert {layer.weight().qscheme() for layer in convolutions} == {torch.per_channel_affine}


def with_scales(made: ModelVersion, name: str, value: object) -> ModelVersion:
    """Change a tensor of a quantised version, or take it out; its hash agrees."""
    state = safetensors.torch.load_file(made.weights_path)
    if value is None:
        del state[name]
    else:
        state[name] = torch.tensor(value)
    safetensors.torch.save_file(state, made.weights_path)
    digest = hashlib.sha256(made.weights_path.read_bytes()).hexdigest()
    return ModelVersion(made.folder, made.info.model_copy(update={"weights_sha256": digest}))


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("conv.scale", None, r"missing: conv\.scale"),
        ("conv.scale", -0.1, r"unusable int8 value in int8\.conv\.scale: -0"),
        ("conv.scale", float("nan"), r"not finite in int8\.conv\.scale"),
        ("conv.scale", [1.0, 1.0], r"conv\.scale \(2,\), not \(\)"),
        ("conv.zero_point", 256, r"unusable int8 value in int8\.conv\.zero_point: 256"),
        ("conv.zero_point", 0.5, r"conv\.zero_point float32, not int64"),
        ("more", 1, "unexpected: more"),
    ],
)
def test_scales_that_are_damaged_are_refused_by_name(name, value, what, made):
    damaged = with_scales(made, f"int8.{name}", value)
    with pytest.raises(ModelInvalidError, match=what) as caught:
        Engine.load(damaged, device="cpu", precision="int8", max_batch=1)
    assert "weights.safetensors" in caught.value.detail


def test_too_few_images_are_refused(colours, folder):
    with pytest.raises(UsageError, match=r"has 24 distinct images .*at least 64 are needed"):
        quantize(colours, folder / "r")
    with pytest.raises(UsageError, match="has 0 distinct images"):
        quantize(colours, folder / "none")


def test_the_same_picture_twice_is_one(tmp_path, folder):
    for path in folder.rglob("*.png"):
        for copy in ("a", "b"):
            (tmp_path / f"{copy}{path.name}").write_bytes(path.read_bytes())
    pictures = quantising.read_pictures(tmp_path, Decoder(Preprocessing(), 10**6), 224)
    assert (len(pictures.calibration), len(pictures.held_out)) == (IMAGES // 4, IMAGES - IMAGES // 4)


def test_unreadable_images_are_named(colours, folder, tmp_path):
    for number, path in enumerate(sorted(folder.rglob("*.png"), key=lambda path: path.name)):
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[:60] + bytes([number]) if number < 6 else data)
    with pytest.raises(UsageError, match=r"6 images cannot be read: .*000\.png: .*and 2 more"):
        quantize(colours, tmp_path)


def test_what_is_quantised_or_taken_is_not_quantised_again(colours, made, folder):
    with pytest.raises(UsageError, match=r"v1-int8 is quantised already: quantise colours/v1, .*--as"):
        quantize(made, folder, "colours/v2")
    with pytest.raises(UsageError, match="already there"):
        quantize(colours, folder)


def test_int8_is_refused_where_there_is_none(colours, made, monkeypatch):
    with pytest.raises(ModelError, match=r"colours/v1 has no int8 form: make one with `alexq"):
        Engine.load(colours, device="cpu", precision="int8", max_batch=1)
    with pytest.raises(DeviceError, match="one device"):
        Engine.load(made, device="cpu,cpu", precision="int8", max_batch=1)
    monkeypatch.setattr(int8, "_ENGINE", "an engine of another processor")
    with pytest.raises(DeviceError, match="int8 needs an x86 CPU"):
        Engine.load(made, device="cpu", precision="int8", max_batch=1)


@pytest.mark.parametrize(
    ("native", "agreements", "expected"),
    [
        (["int8", "bf16"], {"int8": AGREES, "bf16": AGREES}, "int8"),
        (["bf16"], {"int8": AGREES, "bf16": AGREES}, "bf16"),
        ([], {"int8": AGREES, "bf16": AGREES}, "fp32"),
        (["int8", "bf16"], {"int8": DIFFERS, "bf16": AGREES}, "bf16"),
        (["int8", "bf16"], {"int8": DIFFERS, "bf16": DIFFERS}, "fp32"),
        (["int8", "bf16"], {}, "fp32"),
    ],
)
def test_auto_is_the_fastest_that_is_native_and_agrees(
    native, agreements, expected, made, monkeypatch, caplog
):
    caplog.set_level("INFO", "alexq.inference")
    monkeypatch.setattr(precisions, "native", lambda devices: native)
    version = ModelVersion(made.folder, made.info.model_copy(update={"agreement": agreements}))
    assert engine(version, "auto").precision == expected
    assert caplog.messages[0].startswith(f"precision auto: {expected} for model colours/v1-int8")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx2": True, "avx512_bf16": True}, ["int8", "bf16"]),
        ({"avx2": True, "amx_bf16": True}, ["int8", "bf16"]),
        ({"avx2": True, "avx512_bf16": False}, ["int8"]),
        ({"avx2": False}, []),
    ],
)
def test_what_a_cpu_is_fast_at_is_read_from_its_features(features, expected, monkeypatch):
    if "x86" not in torch.backends.quantized.supported_engines:
        expected = [one for one in expected if one != "int8"]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert precisions.native((CPU,)) == expected
    assert precisions.native((CPU, CPU)) == [one for one in expected if one != "int8"]


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), []), ((8, 0), ["bf16"]), ((9, 0), ["bf16"])])
def test_what_a_gpu_is_fast_at_is_its_compute_capability(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precisions.native((torch.device("cuda", 0),)) == expected


def test_agreement_counts_what_it_says():
    reference = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0]])
    other = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0]])
    found = agreement(reference, other, ["a", "b", "c"])
    assert (found.images, found.top1, found.top5) == (4, 0.75, 1.0)
    assert {label: (one.images, one.top1) for label, one in found.per_class.items()} == {
        "a": (1, 1.0),
        "b": (2, 0.5),
        "c": (1, 1.0),
    }
    divergence = (reference[:2] * (reference[:2] / other[:2]).log()).sum() / 4
    assert found.kl == pytest.approx(float(divergence), abs=1e-6)
    assert agreement(reference, reference, ["a", "b", "c"]).kl == 0
