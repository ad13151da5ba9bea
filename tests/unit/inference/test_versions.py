"""Versions appear whole or not at all, never change, and hold only what was checked."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from alexq_schema.errors import ModelError, ModelInvalidError, ModelNotFoundError
from alexq_schema.models import ModelStore
from alexq_worker.inference.versions import create_untrained, import_model

pytestmark = pytest.mark.usefixtures("tiny_alexnet")


class Bomb:
    """A pickle that creates a file when it is opened by a loader that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def own(tmp_path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def weights(tmp_path, tiny_state) -> Path:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tiny_state(3), path)
    return path


def test_untrained_weights_are_the_same_numbers_on_every_machine(version):
    # Of the real AlexNet: a change here makes workers of two releases disagree about one version.
    digest = hashlib.sha256()
    for _, tensor in sorted(safetensors.torch.load_file(version.weights_path).items()):
        digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == "7b26d585922ae4cea56257f2684076858f71ab7fe80590d47db253fca6ec356a"
    assert version.info.ref == "alexnet/untrained-seed0"
    assert version.info.trained is False
    labels = version.read_labels()
    assert (len(labels), labels[0], labels[817]) == (1000, "tench", "sports car")


def test_a_seed_decides_the_weights_and_the_global_generator_is_left_alone(tmp_path):
    before = torch.random.get_rng_state()
    first, again = (create_untrained(ModelStore(tmp_path / name)) for name in ("a", "b"))
    other = create_untrained(ModelStore(tmp_path / "a"), seed=7)
    assert first.info == again.info
    assert other.info.ref == "alexnet/untrained-seed7"
    assert other.info.weights_sha256 != first.info.weights_sha256
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_import_is_stored_as_contiguous_fp32_with_its_labels(
    suffix, own, tmp_path, tiny_state, labels_file
):
    state = {name: tensor.half() for name, tensor in tiny_state(3).items()}
    path = tmp_path / f"mine{suffix}"
    if suffix == ".pth":
        state["head.weight"] = state["head.weight"].t().contiguous().t()
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    made = import_model(own, "pets/v1", path, labels_file)
    assert made == own.find("pets/v1")
    assert made.read_labels() == ["cat", "dog", "horse"]
    made.verify_weights()
    assert made.info.trained
    stored = safetensors.torch.load_file(made.weights_path)
    assert all(torch.equal(stored[name], tensor.float()) for name, tensor in state.items())
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert sorted(path.name for path in own.models_dir.iterdir()) == ["pets"]


def test_importing_the_same_again_is_fine_and_another_is_refused(own, weights, labels_file, tiny_state):
    first = import_model(own, "pets/v1", weights, labels_file)
    assert import_model(own, "pets/v1", weights, labels_file) == first
    safetensors.torch.save_file({n: t + 1 for n, t in tiny_state(3).items()}, weights)
    with pytest.raises(ModelInvalidError, match="already there and is another one"):
        import_model(own, "pets/v1", weights, labels_file)
    first.verify_weights()
    assert sorted(path.name for path in own.models_dir.iterdir()) == ["pets"]


@pytest.mark.parametrize("damage", ["weights.safetensors", "labels.txt", "model.json"])
def test_importing_the_same_again_repairs_a_damaged_version(damage, own, weights, labels_file):
    made = import_model(own, "pets/v1", weights, labels_file)
    (made.folder / damage).write_bytes(b"damaged")
    repaired = import_model(own, "pets/v1", weights, labels_file)
    repaired.verify_weights()
    assert repaired.read_labels() == ["cat", "dog", "horse"]
    assert sorted(path.name for path in own.models_dir.iterdir()) == ["pets"]


def test_a_crash_while_writing_leaves_no_version(own, weights, labels_file, monkeypatch):
    import_model(own, "pets/v1", weights, labels_file)
    (own.models_dir / ".draft-left-by-a-crash").mkdir()
    (own.models_dir / ".draft-left-by-a-crash" / "model.json").write_text("{")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(ModelError, match="No space left"):
        import_model(own, "pets/v2", weights, labels_file)
    assert own.refs() == ["pets/v1"]


def test_labels_that_do_not_match_the_head_are_refused(own, weights, tmp_path):
    labels = tmp_path / "two.txt"
    labels.write_text("cat\ndog\n")
    with pytest.raises(ModelInvalidError, match="3 outputs, the label list 2 labels"):
        import_model(own, "pets/v1", weights, labels)


@pytest.mark.parametrize("text", ["", "only one\n", "cat\n\nhorse\n"])
def test_a_label_list_with_gaps_is_refused(text, own, weights, tmp_path):
    labels = tmp_path / "bad.txt"
    labels.write_text(text)
    with pytest.raises(ModelInvalidError, match="one label a line"):
        import_model(own, "pets/v1", weights, labels)


def test_keys_and_shapes_must_be_the_architectures(own, weights, labels_file, tiny_state):
    state = tiny_state(3)
    state["extra"] = state.pop("conv.bias")
    state["head.weight"] = state["head.weight"][:, :2].clone()
    safetensors.torch.save_file(state, weights)
    with pytest.raises(ModelInvalidError) as caught:
        import_model(own, "pets/v1", weights, labels_file)
    assert "missing: conv.bias" in caught.value.detail
    assert "unexpected: extra" in caught.value.detail
    assert "head.weight (3, 2), not (3, 4)" in caught.value.detail
    with pytest.raises(ModelInvalidError, match=r"'resnet9' is unknown \(near: .*resnet18"):
        import_model(own, "pets/v1", weights, labels_file, "resnet9")


def test_values_that_are_not_finite_are_refused(own, weights, labels_file, tiny_state):
    state = tiny_state(3)
    state["conv.weight"][0, 0, 0, 0] = torch.nan
    safetensors.torch.save_file(state, weights)
    with pytest.raises(ModelInvalidError, match=r"not finite in conv\.weight"):
        import_model(own, "pets/v1", weights, labels_file)


def test_a_pickle_that_needs_more_than_tensors_is_refused_and_never_run(own, tmp_path, labels_file):
    for index, save in enumerate(
        (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)))
    ):
        path, touched = tmp_path / f"{index}.pth", tmp_path / f"touched{index}"
        save({"head.bias": Bomb(touched)}, path)
        with pytest.raises(ModelInvalidError, match="runs no code"):
            import_model(own, "pets/v1", path, labels_file)
        assert not touched.exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 not a zip"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_is_no_weights_is_refused(content, suffix, own, tmp_path, labels_file):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelInvalidError, match="weights"):
        import_model(own, "pets/v1", path, labels_file)
    with pytest.raises(ModelInvalidError, match="cannot read"):
        import_model(own, "pets/v1", path.with_stem("missing"), labels_file)


def test_a_whole_module_or_a_list_is_not_a_state_dict(own, tmp_path, labels_file):
    path = tmp_path / "list.pt"
    torch.save([torch.zeros(3)], path)
    with pytest.raises(ModelInvalidError, match="not a state dict"):
        import_model(own, "pets/v1", path, labels_file)


def test_a_name_without_a_version_is_refused(own, weights, labels_file):
    with pytest.raises(ModelNotFoundError, match="name/version"):
        import_model(own, "pets", weights, labels_file)


def test_model_json_is_what_other_programs_read(own, weights, labels_file):
    made = import_model(own, "pets/v1", weights, labels_file)
    stored = json.loads((made.folder / "model.json").read_text())
    assert stored["architecture"] == "alexnet"
    assert stored["classes"] == 3
    assert stored["precision"] == "fp32"
    assert stored["preprocessing"] == {
        "resize": 256,
        "crop": 224,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_importing_modules_does_nothing_and_decoding_needs_no_torch():
    code = (
        "import sys; import alexq_worker.inference.decode; assert 'torch' not in sys.modules;"
        "from alexq_worker.inference import engine, versions; assert 'torchvision' not in sys.modules;"
        "from alexq_worker.inference.torchvision_ops import import_torchvision as load;"
        "assert load() is load(); assert load().models.alexnet and load().transforms.Resize"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=200)
