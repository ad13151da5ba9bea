"""A model folder that is damaged, or made to do harm, is refused by file, and nothing in it is run."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from alexq_schema.errors import ModelError, ModelInvalidError
from alexq_schema.models import ModelStore
from alexq_worker.inference.engine import Engine
from alexq_worker.inference.versions import import_model

pytestmark = pytest.mark.usefixtures("tiny_alexnet")

Folder = Path
Damage = Callable[[Folder], object]


class Payload:
    """Creates the file ``was-run`` beside the models folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def folder(tmp_path, tiny_state, labels_file) -> Folder:
    weights = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(tiny_state(3), weights)
    return import_model(ModelStore(tmp_path / "models"), "pets/v1", weights, labels_file).folder


def describe(folder: Folder, **changes: object) -> None:
    """Change ``model.json``, and make it agree with the files as an author of bad ones would."""
    path = folder / "model.json"
    hashes = {
        f"{kind}_sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for kind, name in (("weights", "weights.safetensors"), ("labels", "labels.txt"))
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | hashes | changes))


def weights(content: Callable[[bytes], bytes], **changes: object) -> Damage:
    """Replace the weights' bytes; the hash agrees with them."""

    def damage(folder: Folder) -> None:
        path = folder / "weights.safetensors"
        path.write_bytes(content(path.read_bytes()))
        describe(folder, **changes)

    return damage


def tensors(change: Callable[[dict[str, torch.Tensor]], object], **changes: object) -> Damage:
    """Change the tensors; the hash agrees with them."""

    def content(before: bytes) -> bytes:
        state = safetensors.torch.load(before)
        change(state)
        return safetensors.torch.save(state)

    return weights(content, **changes)


def header(change: Callable[[dict[str, dict[str, object]]], object]) -> Damage:
    """Make the safetensors header lie about what follows it."""

    def content(before: bytes) -> bytes:
        (length,) = struct.unpack("<Q", before[:8])
        fields = json.loads(before[8 : 8 + length])
        change(fields)
        text = json.dumps(fields).encode()
        return struct.pack("<Q", len(text)) + text + before[8 + length :]

    return weights(content)


def labels(text: bytes) -> Damage:
    return lambda folder: ((folder / "labels.txt").write_bytes(text), describe(folder))


def flip_a_bit(folder: Folder) -> None:
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def pickled(folder: Folder, save: Callable[[object, Path], object]) -> None:
    save({"head.weight": Payload(folder.parents[2] / "was-run")}, folder / "weights.safetensors")
    describe(folder)


SCALE = torch.tensor(0.1)
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "a flipped bit": (flip_a_bit, "weights.safetensors", "SHA-256"),
    "cut short, hash too": (weights(lambda data: data[:-100]), "weights.safetensors", "cannot read"),
    "cut in the header": (weights(lambda data: data[:20]), "weights.safetensors", "cannot read"),
    "empty": (weights(lambda data: b""), "weights.safetensors", "cannot read"),
    "a header of 2⁶³ bytes": (
        weights(lambda data: struct.pack("<Q", 2**63) + data[8:]),
        "weights.safetensors",
        "cannot read",
    ),
    "offsets past the end": (
        header(lambda fields: fields["head.bias"].update(data_offsets=[0, 10**12])),
        "weights.safetensors",
        "cannot read",
    ),
    "a shape that its bytes do not fill": (
        header(lambda fields: fields["head.bias"].update(shape=[10**9])),
        "weights.safetensors",
        "cannot read",
    ),
    "a type that does not exist": (
        header(lambda fields: fields["head.bias"].update(dtype="F99")),
        "weights.safetensors",
        "cannot read",
    ),
    "a name twice": (
        weights(lambda data: data.replace(b'"conv.bias"', b'"head.bias"')),
        "weights.safetensors",
        "cannot read",
    ),
    "integers for weights": (
        tensors(lambda state: state.update({"conv.bias": state["conv.bias"].int()})),
        "weights.safetensors",
        "another kind of number: conv.bias int32, not float32",
    ),
    "not a number": (
        tensors(lambda state: state["head.weight"].fill_(torch.nan)),
        "weights.safetensors",
        "not finite in head.weight",
    ),
    "a tensor missing, one too many": (
        tensors(lambda state: state.update(extra=state.pop("conv.bias"))),
        "weights.safetensors",
        "missing: conv.bias; unexpected: extra",
    ),
    "a pickle": (
        lambda folder: pickled(folder, lambda value, path: path.write_bytes(pickle.dumps(value))),
        "weights.safetensors",
        "cannot read",
    ),
    "a torch file": (lambda folder: pickled(folder, torch.save), "weights.safetensors", "cannot read"),
    "no weights": (
        lambda folder: (folder / "weights.safetensors").unlink(),
        "weights.safetensors",
        "cannot read",
    ),
    "int8 without its scales": (
        lambda folder: describe(folder, precision="int8"),
        "weights.safetensors",
        r"no int8\.\* tensors",
    ),
    "scales that fp32 has no use for": (
        tensors(lambda state: state.update({"int8.conv.scale": SCALE})),
        "weights.safetensors",
        r"int8\.conv\.scale",
    ),
    "more classes than the head has": (
        lambda folder: (labels(b"a\nb\nc\nd\n")(folder), describe(folder, classes=4)),
        "weights.safetensors",
        r"head\.weight \(3, 4\), not \(4, 4\)",
    ),
    "more classes than labels": (lambda folder: describe(folder, classes=4), "labels.txt", "3 labels for 4"),
    "other labels": (
        lambda folder: (folder / "labels.txt").write_text("a\nb\nc\n"),
        "labels.txt",
        "not the label list",
    ),
    "labels that are no text": (labels(b"\xff\na\nb\n"), "labels.txt", "not UTF-8"),
    "a NUL in a label": (labels(b"a\0\nb\nc\n"), "labels.txt", "NUL"),
    "no labels": (lambda folder: (folder / "labels.txt").unlink(), "labels.txt", "cannot read"),
    "half a model.json": (
        lambda folder: (folder / "model.json").write_bytes((folder / "model.json").read_bytes()[:80]),
        "model.json",
        "malformed",
    ),
    "a field that nobody knows": (
        lambda folder: describe(folder, loader="os.system"),
        "model.json",
        "loader: Extra inputs",
    ),
    "another name": (lambda folder: describe(folder, name="cats"), "model.json", "says it is cats/v1"),
    "a precision that does not exist": (
        lambda folder: describe(folder, precision="int4"),
        "model.json",
        "precision: Input should be 'fp32' or 'int8'",
    ),
    "a network that does not exist": (
        lambda folder: describe(folder, architecture="os.system"),
        "model.json",
        "'os.system' is unknown",
    ),
    "a crop larger than the picture": (
        lambda folder: describe(folder, preprocessing={"resize": 256, "crop": -1}),
        "model.json",
        r"preprocessing\.crop",
    ),
}


def serve(store: ModelStore) -> None:
    version = store.find("pets/v1")
    for precision in ("fp32", "int8"):
        Engine.load(version, device="cpu", precision=precision, max_batch=1).warm_up()


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_with_what_is_wrong_and_where(name, folder, tmp_path):
    damage, file, what = DAMAGES[name]
    damage(folder)
    with pytest.raises(ModelInvalidError, match=what) as caught:
        serve(ModelStore(tmp_path / "models"))
    assert "pets/v1" in caught.value.detail
    assert file in caught.value.detail
    assert not (tmp_path / "was-run").exists()


def test_the_folder_is_served_when_it_is_whole(folder, tmp_path):
    describe(folder)
    version = ModelStore(tmp_path / "models").find("pets/v1")
    Engine.load(version, device="cpu", precision="fp32", max_batch=1).warm_up()
    with pytest.raises(ModelError, match=r"no int8 form: make one with `alexq models quantize pets/v1"):
        Engine.load(version, device="cpu", precision="int8", max_batch=1)
