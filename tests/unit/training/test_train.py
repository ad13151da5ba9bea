"""A training is repeatable, goes on as if it had not been interrupted, and says how good it is."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from alexq_schema.errors import DatasetError, TrainingError, UsageError
from alexq_schema.training import TrainModel
from alexq_worker.training.loop import class_weights
from alexq_worker.training.recipes import recipe_of
from alexq_worker.training.telling import Teller
from alexq_worker.training.train import train, work_folder

WAYS = [("transfer", "modern"), ("transfer", "paper"), ("full", "modern"), ("full", "paper")]


class InterruptedTrainingError(Exception):
    """What ends a training in the middle."""


class EndingAt(Teller):
    """Ends the training after a step."""

    def __init__(self, step):
        super().__init__(quiet=True)
        self.at = step

    def step(self, epoch, epochs, step, steps, loss, accuracy):
        if step == self.at:
            raise InterruptedTrainingError


@pytest.fixture
def request_of(pictures, base):
    def make(ref, method="transfer", recipe="modern", **how):
        how = {"epochs": 3, "batch": 4, "seed": 5, "held_out": 0.3, "base": base, **how}
        return TrainModel.of(data=pictures, ref=ref, method=method, recipe=recipe, **how)

    return make


@pytest.mark.parametrize(("method", "recipe"), WAYS)
def test_an_interrupted_training_ends_as_one_that_was_not(settings, request_of, method, recipe):
    straight = train(request_of("mine/straight", method, recipe), settings, teller=Teller(quiet=True))
    assert straight.info.training.epochs == 3

    request = request_of("mine/resumed", method, recipe)
    for step in (2, 5, 9):  # in the first epoch, in the second, in the last
        with pytest.raises(InterruptedTrainingError):
            train(request, settings, resume=True, checkpoint_every_s=0, teller=EndingAt(step))
    resumed = train(request, settings, resume=True, teller=Teller(quiet=True))

    assert resumed.info.training == straight.info.training
    assert resumed.info.weights_sha256 == straight.info.weights_sha256
    assert not (work_folder_of(settings, "mine/resumed") / "checkpoint.safetensors").exists()


def work_folder_of(settings, ref):
    from alexq_schema.models import ModelStore

    return work_folder(ModelStore(settings.models_dir), ref)


def test_another_seed_makes_other_weights(settings, request_of):
    one, two = (
        train(request_of(f"mine/seed{seed}", "full", seed=seed), settings, teller=Teller(quiet=True))
        for seed in (1, 2)
    )
    assert one.info.weights_sha256 != two.info.weights_sha256


def test_a_checkpoint_of_something_else_is_refused_with_the_difference(settings, request_of, pictures):
    with pytest.raises(InterruptedTrainingError):
        train(request_of("mine/v1"), settings, checkpoint_every_s=0, teller=EndingAt(3))

    with pytest.raises(TrainingError, match="seed is 6 and was 5"):
        train(request_of("mine/v1", seed=6), settings, resume=True, teller=Teller(quiet=True))
    (pictures / "clouds" / "0.png").unlink()
    with pytest.raises(TrainingError, match="data_sha256 is"):
        train(request_of("mine/v1"), settings, resume=True, teller=Teller(quiet=True))
    # Without --resume it begins again.
    assert train(request_of("mine/v1"), settings, teller=Teller(quiet=True)).info.training.epochs == 3


def test_a_damaged_checkpoint_is_refused(settings, request_of):
    folder = work_folder_of(settings, "mine/v1")
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"\x80\x04 a pickle, or half a file")

    with pytest.raises(TrainingError, match="is damaged"):
        train(request_of("mine/v1"), settings, resume=True, teller=Teller(quiet=True))


def test_a_version_says_what_it_was_trained_on_and_how_good_it_is(settings, store, request_of):
    version = train(request_of("mine/v1"), settings, teller=Teller(quiet=True))

    training = store.find("mine/v1").info.training
    assert training == version.info.training
    assert (training.base, training.method, training.recipe, training.seed) == (
        "base/v1",
        "transfer",
        "modern",
        5,
    )
    assert training.classes == {"checkers": 4, "clouds": 4, "grating": 4}
    assert training.held_out.images == 6
    assert set(training.held_out.per_class) == {"checkers", "clouds", "grating"}
    assert training.held_out.top5 == 1.0
    assert version.read_labels() == ["checkers", "clouds", "grating"]
    history = json.loads((version.folder / "training" / "history.json").read_text())
    best = min(history, key=lambda epoch: epoch["held_out_loss"])
    assert best["held_out_loss"] == pytest.approx(training.held_out.loss)
    assert (version.folder / "training" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TrainingError, match="is there already"):
        train(request_of("mine/v1"), settings, teller=Teller(quiet=True))


def test_a_transfer_leaves_the_features_as_they_were(settings, store, request_of):
    version = train(request_of("mine/v1"), settings, teller=Teller(quiet=True))

    before, after = (
        safetensors.torch.load_file(one.weights_path) for one in (store.find("base/v1"), version)
    )
    assert torch.equal(before["conv.weight"], after["conv.weight"])
    assert after["head.weight"].shape == (3, 32)


def test_it_stops_when_nothing_more_is_learnt(settings, request_of):
    request = request_of("mine/v1", epochs=50, patience=2, learning_rate=1e-12)

    training = train(request, settings, teller=Teller(quiet=True)).info.training

    assert training.epochs < 50
    assert training.epochs - training.best_epoch == 2


def test_a_loss_that_is_no_number_ends_it(settings, request_of):
    request = request_of("mine/v1", "full", "paper", learning_rate=1e30)

    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(request, settings, teller=Teller(quiet=True))


def test_torch_is_left_as_it_was(settings, request_of):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)

    train(request_of("mine/v1", "full"), settings, teller=Teller(quiet=True))

    assert torch.equal(torch.rand(4), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_bad_data_is_refused_before_a_step_is_made(settings, request_of, pictures):
    (pictures / "clouds" / "0.png").write_bytes(b"")

    with pytest.raises(DatasetError, match=r"clouds/0\.png"):
        train(request_of("mine/v1"), settings, teller=EndingAt(1))


def test_options_that_make_no_sense_are_named(pictures):
    with pytest.raises(UsageError, match=r"epochs=0: .*held_out=2\.0: "):
        TrainModel.of(data=pictures, ref="mine/v1", held_out=2.0, epochs=0)


def test_rare_labels_weigh_more_and_the_mean_stays_one():
    weights = class_weights([90, 10], balanced=True)

    assert weights.tolist() == pytest.approx([100 / 180, 100 / 20])
    assert (weights * torch.tensor([90, 10])).sum() == pytest.approx(100)


def test_the_papers_rate_is_divided_by_ten_and_the_modern_one_follows_a_cosine(pictures):
    cpu = torch.device("cpu")
    paper, modern = (
        recipe_of(TrainModel.of(data=pictures, ref="a/b", method="full", recipe=name), cpu)
        for name in ("paper", "modern")
    )

    assert [paper.rate(step, 9) for step in (0, 2, 3, 6)] == pytest.approx([0.01, 0.01, 0.001, 0.0001])
    rates = [modern.rate(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(modern.learning_rate)
    assert rates.index(max(rates)) == 4
    assert rates[-1] < 0.01 * modern.learning_rate
