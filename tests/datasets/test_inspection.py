import dataclasses

import cv2
import numpy as np
import pytest

from datasets import inspection
from datasets.__main__ import main
from posepile.data.augmentation import NO_AUGMENTATION, AugmentationConfig
from posepile.data.batches import BatchPlan, make_batch
from posepile.data.pictures import load_pictures
from posepile.geometry.skeleton import load_skeleton
from posepile.visualization.drawing import LEFT_COLOR, RIGHT_COLOR
from tests.posepile.data.prepared import dotted_example, write_prepared

CROP_SIDE = 192  # px; drawn at this size
NUM_CROPS = 24
SKELETON = "h36m_17"


@pytest.fixture(name="sheets")
def capture_sheets(monkeypatch):
    """What is put on every contact sheet: cells, captions, title."""
    sheets = []
    draw = inspection.contact_sheet

    def capture(cells, columns, captions, *, title, legend):
        sheets.append((cells, captions, title))
        return draw(cells, columns, captions, title=title, legend=legend)

    monkeypatch.setattr(inspection, "contact_sheet", capture)
    return sheets


def prepare(folder, name, kind, dot_joint=None, num_examples=10):
    joint = dot_joint and load_skeleton(SKELETON).joint_names.index(dot_joint)
    examples = [dotted_example(np.random.default_rng(i), SKELETON, kind, joint) for i in range(num_examples)]
    return write_prepared(folder, name, SKELETON, examples, kind)


def draw(dataset, output, config, seed=3):
    inspection.draw_augmented(dataset, "train", NUM_CROPS, seed, output, config=config, crop_side=CROP_SIDE,
                              pictures=load_pictures(CROP_SIDE))


def test_the_crops_are_those_of_the_first_training_steps(tmp_path, sheets):
    """For labels of both kinds, and over an epoch's end: 24 crops of 10 examples."""
    datasets = {kind: prepare(tmp_path, f"rig_{kind}", kind) for kind in ("3d", "2d")}
    plan = BatchPlan([(datasets["3d"], 3)], [(datasets["2d"], 4)], CROP_SIDE)
    for kind, rows in (("3d", slice(0, 3)), ("2d", slice(3, 7))):
        draw(datasets[kind], tmp_path / "sheet.png", AugmentationConfig())
        crops = [cell[:, :CROP_SIDE] for cell in sheets[-1][0]]
        expected = np.concatenate([make_batch(plan, 3, step)["image"][rows] for step in range(8)])[:NUM_CROPS]
        np.testing.assert_array_equal(crops, expected)


@pytest.mark.parametrize("kind", ["3d", "2d"])
def test_labels_follow_the_picture(kind, tmp_path, sheets):
    """Every picture has a white dot under the left wrist, which is the right wrist of a mirrored person."""
    dataset = prepare(tmp_path, "rig", kind, dot_joint="left_wrist")
    config = AugmentationConfig()
    geometry = {name: getattr(config, name) for name in ("shift", "zoom", "roll_degrees", "flip_probability")}
    draw(dataset, tmp_path / "sheet.png", dataclasses.replace(NO_AUGMENTATION, **geometry))
    cells, captions, _ = sheets[0]
    num_checked = {LEFT_COLOR: 0, RIGHT_COLOR: 0}
    for cell, caption in zip(cells, captions, strict=True):
        crop, drawn = np.hsplit(cell, 2)
        rows, columns = np.nonzero(crop[..., 0] > 128)
        places = np.concatenate([rows, columns])
        if not len(places) or places.min() == 0 or places.max() == CROP_SIDE - 1:
            continue  # not in the crop, or cut off by its edge
        center = round(rows.mean()), round(columns.mean())
        color = RIGHT_COLOR if "mirrored" in caption else LEFT_COLOR
        assert tuple(drawn[center]) == color
        num_checked[color] += 1
    assert min(num_checked.values()) >= 4


def test_small_crops_are_magnified(tmp_path, sheets):
    dataset = prepare(tmp_path, "rig", "3d")
    inspection.draw_augmented(dataset, "train", 2, 0, tmp_path / "sheet.png", config=NO_AUGMENTATION, crop_side=64,
                              pictures=load_pictures(64))
    assert [cell.shape for cell in sheets[0][0]] == [(128, 2 * 128, 3)] * 2


def test_the_command_takes_the_settings_of_a_set(tmp_path, sheets, monkeypatch, capsys):
    prepare(tmp_path / "data", "rig", "3d")
    prepare(tmp_path / "data", "other", "3d")
    (tmp_path / "mine.toml").write_text("""
        batch_size = 2
        [datasets_3d]
        rig = 1
        other = 1
        [hyperparameters]
        crop_side = 96
        [hyperparameters.augmentation]
        flip_probability = 0
        [hyperparameters.dataset_augmentation.rig]
        flip_probability = 1
    """)
    monkeypatch.chdir(tmp_path)
    for arguments, num_mirrored, side in ((["rig", "--dataset-set=mine.toml"], 16, 96),
                                          (["other", "--dataset-set=mine.toml", "--crop-side=64"], 0, 64)):
        assert main(["inspect", *arguments, "--augmented", "--num=16", "--seed=5"]) == 0
        _, captions, title = sheets[-1]
        assert sum("mirrored" in caption for caption in captions) == num_mirrored
        assert f"first 16 training crops of seed 5, {side} px" in title
    assert "16 training crops of train drawn in other-train-augmented.png" in capsys.readouterr().out
    assert cv2.imread("other-train-augmented.png").shape[1] > 3 * 2 * 128


def test_folders_of_the_set_and_of_the_command_line(tmp_path, monkeypatch):
    """A set's settings count unless the options say something else."""
    prepare(tmp_path / "data", "rig", "3d")
    (tmp_path / "mine.toml").write_text(
        'batch_size = 1\n[datasets_3d]\nrig = 1\n[hyperparameters]\noccluder_dir = "objects"\nbackground_dir = "photos"')
    monkeypatch.chdir(tmp_path)
    loaded = []
    monkeypatch.setattr("datasets.__main__.load_pictures", lambda **arguments: (loaded.append(arguments), load_pictures(64))[1])
    for options in ([], ["--occluder-dir=", "--background-dir=mine"]):
        assert main(["inspect", "rig", "--augmented", "--dataset-set=mine.toml", "--crop-side=64", *options]) == 0
    assert loaded == [{"crop_side": 64, "occluder_dir": "objects", "background_dir": "photos"},
                      {"crop_side": 64, "occluder_dir": "", "background_dir": "mine"}]


@pytest.mark.parametrize(("options", "message"), [
    (["--crop-side=64"], "--crop-side is for training crops; add --augmented"),
    (["--dataset-set=full"], "--dataset-set is for training crops"),
    (["--augmented", "--crop-side=0"], "crop_side must be 1 px or more, got 0"),
    (["--augmented", "--occluder-dir=gone"], "folder of pictures gone"),
    (["--augmented", "--dataset-set=huge"], "unknown dataset set 'huge'"),
    (["--augmented", "--dataset-set=bad.toml"], "crop_side must be a int, got '64'"),
])
def test_wrong_options_are_one_line(options, message, tmp_path, monkeypatch, capsys):
    prepare(tmp_path / "data", "rig", "3d", num_examples=1)
    (tmp_path / "bad.toml").write_text('batch_size = 1\n[datasets_3d]\nrig = 1\n[hyperparameters]\ncrop_side = "64"')
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "rig", *options]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error
    assert not list(tmp_path.glob("*.png"))
