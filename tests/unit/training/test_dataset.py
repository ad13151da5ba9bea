"""What cannot be learnt from is said by name before anything is learnt."""

from __future__ import annotations

import shutil

import pytest

from alexq_schema.errors import DatasetError
from alexq_schema.model_info import Preprocessing
from alexq_worker.inference.decode import Decoder
from alexq_worker.training.dataset import load_dataset
from tests.unit.training.conftest import EACH, KINDS


def load(source, **how):
    decoder = Decoder(Preprocessing(), 1_000_000)
    how = {"seed": 0, "held_out": 0.3, "threads": 2, "looked_at": lambda things, _total: things, **how}
    return load_dataset(source, decoder, **how)


def names(samples):
    return sorted(f"{sample.path.parent.name}/{sample.path.name}" for sample in samples)


def test_every_label_is_held_out_in_the_share_that_was_asked_for(pictures):
    dataset = load(pictures)

    assert dataset.labels == sorted(KINDS)
    assert [sum(sample.target == n for sample in dataset.held_out) for n in range(3)] == [2, 2, 2]
    assert len(dataset.train) == len(KINDS) * EACH - 6
    assert not {sample.sha256 for sample in dataset.train} & {sample.sha256 for sample in dataset.held_out}


def test_the_split_depends_on_the_seed_and_on_nothing_else(pictures, tmp_path):
    moved = shutil.copytree(pictures, tmp_path / "elsewhere")

    assert load(pictures).sha256 == load(moved).sha256
    assert names(load(pictures).held_out) == names(load(moved).held_out)
    assert load(pictures, seed=1).sha256 != load(pictures).sha256


def test_everything_that_is_wrong_is_named_at_once(pictures):
    (pictures / "checkers" / "0.png").write_bytes((pictures / "checkers" / "1.png").read_bytes()[:200])
    (pictures / "checkers" / "notes.txt").write_text("no picture")
    (pictures / "nothing").mkdir()
    (pictures / "stray.png").write_bytes((pictures / "grating" / "0.png").read_bytes())
    shutil.copy(pictures / "grating" / "1.png", pictures / "clouds" / "copy.png")

    with pytest.raises(DatasetError) as refused:
        load(pictures)

    text = str(refused.value)
    assert "a file that cannot be read (2)" in text
    for name in ("checkers/0.png", "checkers/notes.txt", "nothing", "stray.png", "grating/1.png", "copy.png"):
        assert name in text
    assert "a class without pictures (1)" in text
    assert "a label is missing (1)" in text
    assert "the same picture under different labels (1)" in text


def test_one_class_is_refused(pictures):
    shutil.copytree(pictures / "clouds", pictures.parent / "one" / "clouds")

    with pytest.raises(DatasetError, match=r"only one class \(1\): 'clouds'"):
        load(pictures.parent / "one")


def test_a_class_that_cannot_be_split_is_refused(pictures):
    for seed in range(1, EACH):
        (pictures / "clouds" / f"{seed}.png").unlink()

    with pytest.raises(DatasetError, match=r"a class with too few pictures.*clouds: 1 different"):
        load(pictures)


def test_copies_of_a_picture_stay_on_one_side(pictures):
    for number in range(20):
        shutil.copy(pictures / "clouds" / "3.png", pictures / "clouds" / f"copy{number}.png")

    dataset = load(pictures)

    trained, held = (
        [sample for sample in side if "copy" in sample.path.name]
        for side in (dataset.train, dataset.held_out)
    )
    assert sorted((len(trained), len(held))) == [0, 20]
    assert "copy7.png" in dataset.notes[0]


def test_a_picture_on_both_sides_of_a_given_split_is_refused(pictures, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(pictures, data / "train")
    for kind in KINDS:
        (data / "val" / kind).mkdir(parents=True)
        shutil.move(data / "train" / kind / "0.png", data / "val" / kind / "0.png")
    assert names(load(data).held_out) == sorted(f"{kind}/0.png" for kind in KINDS)
    shutil.copy(data / "train" / "clouds" / "1.png", data / "val" / "clouds" / "again.png")

    with pytest.raises(DatasetError, match=r"in training and held out \(1\).*again\.png"):
        load(data)


def test_a_csv_file_says_line_by_line_what_is_wrong(pictures, tmp_path):
    table = tmp_path / "table.csv"
    rows = [f"pictures/{kind}/{seed}.png,{kind}" for kind in KINDS for seed in range(EACH)]
    table.write_text("\n".join(["path,label", *rows]))
    assert load(table).sha256 == load(pictures).sha256
    table.write_text("\n".join(["path,label", *rows, "pictures/clouds/1.png,", "gone.png,clouds"]))

    with pytest.raises(DatasetError) as refused:
        load(table)

    assert "table.csv line 20: pictures/clouds/1.png" in str(refused.value)
    assert "table.csv line 21: gone.png" in str(refused.value)
    table.write_text("file,class\n")
    with pytest.raises(DatasetError, match="must begin with the line path,label"):
        load(table)


def test_a_folder_with_nothing_in_it_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(DatasetError, match="no labelled pictures"):
        load(tmp_path / "empty")
