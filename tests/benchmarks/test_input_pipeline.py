import dataclasses
import json
import os
import types

import cv2
import numpy as np
import pytest

from benchmarks import input_pipeline, per_example_loader, person_crops
from benchmarks.input_pipeline import Workload
from posepile.data import crops, records
from posepile.data.augmentation import NO_AUGMENTATION, AugmentationConfig
from posepile.data.records import PreparedDataset
from posepile.geometry import camera
from tests.posepile.data.prepared import dotted_example, write_prepared

CROP_SIDE = 64
FIRST_KEYS = ["ratio_to_yardstick", "share_of_decode", "scaling_1_to_2_cores", "random_vs_sequential", "late_start_ratio",
              "memory_growth_mb"]
TINY = Workload(crop_side=CROP_SIDE, image_side=96, person_side=64, large_image_side=128, large_person_side=80, num_pictures=2,
                num_examples=8, crop_rounds=1, large_crop_rounds=1, read_rounds=1, queue_rounds=1, queue_warm_up=1,
                queue_batches=1, start_rounds=1, settling_seconds=0.0, index_sizes=(10, 1000), memory_batches=1)
NO_PICTURES = types.SimpleNamespace(occluders=(), backgrounds=np.zeros((0, 80, 80, 3), np.uint8))


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    person_crops.write_datasets(root, 96, 64, 4, 8)
    return root


def load(dataset, position=0, pictures=NO_PICTURES, seed=0, **config):
    return per_example_loader.load_example(
        dataset, "train", position, CROP_SIDE, dataclasses.replace(NO_AUGMENTATION, **config), pictures,
        np.random.default_rng(seed))


def test_prints_the_figures_in_their_order_as_one_json_line(capfd, monkeypatch):
    one_core = {min(os.sched_getaffinity(0))}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: one_core)  # one process less has to import tensorflow
    assert input_pipeline.main(["--json"], TINY) == 0
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert list(result)[:6] == FIRST_KEYS
    assert result["scaling_1_to_2_cores"] is None and all(result[key] is not None for key in set(FIRST_KEYS) - {FIRST_KEYS[2]})
    assert result["large_ratio_to_yardstick"] > 0
    assert result["random_vs_sequential"] == pytest.approx(
        result["random_reads_per_second"] / result["sequential_reads_per_second"], rel=1e-2)  # a single round
    assert {"cpu", "cores", "tensorflow"} <= set(result["machine"])


@pytest.mark.parametrize("name", ["rig_one", "photos"])
def test_the_yardstick_without_augmentation_makes_the_evaluation_crop(data_root, name):
    dataset = PreparedDataset(data_root / name)
    expected = crops.crop_examples(dataset, "train", [3], CROP_SIDE)
    found = load(dataset, 3)
    assert found.keys() == expected.keys()
    for key in found.keys() - {"image"}:
        np.testing.assert_allclose(found[key], expected[key][0], rtol=1e-5, atol=1e-2)
    assert np.abs(found["image"].astype(int) - expected["image"][0]).max() <= 2  # rounding of two ways to warp


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_the_yardsticks_labels_follow_its_pictures(tmp_path, is_mirrored):
    joint = 4
    example = dotted_example(np.random.default_rng(5), "smpl_24", "3d", dot_joint=joint, background=0)
    example = dataclasses.replace(  # the box around the dot keeps it in every crop
        example, bbox=np.array([*camera.project(example.joints3d, example.intrinsics)[joint] - [30, 45], 70, 80]))
    dataset = write_prepared(tmp_path, "dots", "smpl_24", [example], "3d")
    label = dataset.skeleton.mirror[joint] if is_mirrored else joint
    for seed in range(8):
        found = load(dataset, seed=seed, shift=0.1, zoom=(0.75, 1.25), roll_degrees=20.0, flip_probability=float(is_mirrored))
        brightness = found["image"].sum(axis=2, dtype=float)
        dot = [(brightness * axis).sum() / brightness.sum() for axis in np.indices(brightness.shape)[::-1]]
        projected = camera.project(found["joints3d"][[label]], found["intrinsics"])[0]
        np.testing.assert_allclose(projected, dot, atol=0.25)


def test_the_yardstick_replaces_all_but_the_person(data_root):
    dataset = PreparedDataset(data_root / "rig_one")
    green = types.SimpleNamespace(occluders=(), backgrounds=np.full((1, 80, 80, 3), (0, 255, 0), np.uint8))
    plain, replaced = load(dataset), load(dataset, pictures=green, background_probability=1.0)
    example = dataset.read("train", 0)
    crop_intrinsics, rotation = camera.crop_cameras(example.intrinsics[None], example.bbox[None], CROP_SIDE)
    homography = camera.crop_homography(example.intrinsics, crop_intrinsics, rotation)[0]
    mask = records.decode_mask(example.mask_rle, 96, 96).astype(np.uint8)
    alpha = cv2.warpPerspective(255 * mask, homography, (CROP_SIDE, CROP_SIDE))
    assert 0.1 < np.mean(alpha == 255) < 0.6
    np.testing.assert_array_equal(replaced["image"][alpha == 255], plain["image"][alpha == 255])
    assert (replaced["image"][alpha == 0] == (0, 255, 0)).all()


def test_the_yardstick_pastes_and_erases(data_root):
    dataset = PreparedDataset(data_root / "rig_one")
    red = types.SimpleNamespace(occluders=(np.full((8, 4, 4), (255, 0, 0, 255), np.uint8),), backgrounds=None)
    before = load(dataset)["image"]
    pasted = load(dataset, pictures=red, occlusion_probability=1.0, erasing_share=0.0, occluder_scale=(0.5, 0.5))["image"]
    changed = (pasted != before).any(axis=2)
    assert (pasted[changed] == (255, 0, 0)).all()
    assert 8 * 16 / 4 <= changed.sum() <= 6 * 8 * 16  # 1 to 6 objects of 8 x 16 px, at worst with one corner in the crop
    erased = load(dataset, occlusion_probability=1.0, erasing_share=1.0, erased_area=(0.25, 0.25), erased_aspect=(1.0, 1.0))
    rows, columns = np.nonzero((erased["image"] != before).any(axis=2))
    assert [np.ptp(rows) + 1, np.ptp(columns) + 1] == [32, 32]


def test_the_yardsticks_color_changes_by_hand():
    image = np.full((2, 2, 3), 0.3, np.float32)
    image[0] = 0.5, 0.3, 0.3

    def change(**config):
        fixed = {"brightness": 0.0, "contrast": (1.0, 1.0), "hue_degrees": 0.0, "saturation": (1.0, 1.0)}
        return per_example_loader._change_colors(image, AugmentationConfig(**fixed | config), np.random.default_rng(0))

    np.testing.assert_allclose(change(), image, atol=1e-6)
    np.testing.assert_allclose(change(contrast=(0.5, 0.5))[:, 0], [[0.45, 0.3, 0.3], [0.35, 0.3, 0.3]], atol=1e-6)
    np.testing.assert_allclose(change(saturation=(0.5, 0.5))[0, 0], [0.5, 0.4, 0.4], atol=1e-6)
    brighter = change(brightness=0.1) - image
    assert np.ptp(brighter) < 1e-6 and 1e-3 < abs(brighter[0, 0, 0]) < 0.1
    red, green, blue = change(hue_degrees=59.0)[0, 0]  # within 60 degrees of red one other channel rises, up to red's value
    assert red == pytest.approx(0.5, abs=1e-6)
    assert min(green, blue) == pytest.approx(0.3, abs=1e-6) and 0.301 < max(green, blue) < 0.5
