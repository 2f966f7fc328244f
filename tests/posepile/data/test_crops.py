import dataclasses

import cv2
import numpy as np
import pytest

from posepile.data import augmentation, crops, records, sampling
from posepile.data.augmentation import BackgroundChoice
from posepile.data.crops import crop_examples
from posepile.data.pictures import Pictures
from posepile.geometry import camera
from posepile.geometry.skeleton import load_skeleton
from tests.posepile.data.prepared import GEOMETRY_ONLY, IMAGE_SIDE, dotted_example, encode_jpeg, masked_dataset, write_prepared

CROP_SIDE = 96


def dot_center(image):
    """Centre of mass, px, of what is brighter than the background."""
    weight = np.clip(image.astype(np.float64).mean(axis=-1) - 90, 0, None)
    y, x = np.mgrid[:image.shape[0], :image.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("kind, skeleton_name, partial", [("3d", "smpl_24", False), ("2d", "coco_17", False),
                                                          ("3d", "h36m_17", True)])
def test_image_and_labels_undergo_the_same_augmentation(tmp_path, kind, skeleton_name, partial):
    """The dot painted on a joint of the stored image is found, after augmentation, where the labels say.

    In mirrored examples that is the mirrored joint's label: a person's left hand is then seen as a right hand.
    """
    rng, skeleton, config = np.random.default_rng(1), load_skeleton(skeleton_name), GEOMETRY_ONLY
    dot_joints = rng.integers(0, skeleton.num_joints, 60)
    examples = [dotted_example(rng, skeleton, kind, joint) for joint in dot_joints]
    dataset = write_prepared(tmp_path, "dots", skeleton, examples, kind)
    if partial:
        config = dataclasses.replace(config, partial_visibility_probability=0.7)
    geometry = augmentation.random_geometry(config, 3, "dots", np.arange(60))
    positions, flip = sampling.sample_positions(3, "dots", 60, 0, 60), geometry["flip"]
    arrays = crop_examples(dataset, "train", positions, CROP_SIDE, geometry=geometry)
    num_checked = {False: 0, True: 0}
    for i, position in enumerate(positions):
        stored = examples[position]
        dot_joint = dot_joints[position]
        joint = skeleton.mirror[dot_joint] if flip[i] else dot_joint
        joints2d, stored2d = arrays.get("joints2d"), stored.joints2d
        if kind == "3d":
            np.testing.assert_allclose(np.linalg.norm(arrays["joints3d"][i, joint]),
                                       np.linalg.norm(stored.joints3d[dot_joint]), rtol=1e-5)
            joints2d = camera.project(arrays["joints3d"], arrays["intrinsics"])
            stored2d = camera.project(stored.joints3d, stored.intrinsics)
        margin = 6  # of the dot
        is_inside = [((margin < point) & (point < side - 1 - margin)).all()
                     for point, side in ((joints2d[i, joint], CROP_SIDE), (stored2d[dot_joint], IMAGE_SIDE))]
        if all(is_inside):
            assert np.linalg.norm(dot_center(arrays["image"][i]) - joints2d[i, joint]) < 0.5
            num_checked[bool(flip[i])] += 1
    assert min(num_checked.values()) > (8 if partial else 15)


def test_flip_is_a_mirror_image_with_sides_swapped(tmp_path):
    rng, skeleton = np.random.default_rng(0), load_skeleton("smpl_24")
    dataset = write_prepared(tmp_path, "one", skeleton, [dotted_example(rng, skeleton, "3d") for _ in range(2)], "3d")
    plain = crop_examples(dataset, "train", [0, 1], CROP_SIDE, geometry={"flip": np.array([False, False])})
    flipped = crop_examples(dataset, "train", [0, 1], CROP_SIDE, geometry={"flip": np.array([True, True])})
    difference = flipped["image"].astype(int) - plain["image"][:, :, ::-1]
    assert np.abs(difference).max() <= 1
    np.testing.assert_array_equal(flipped["intrinsics"], plain["intrinsics"])
    np.testing.assert_array_equal(flipped["joints3d"], plain["joints3d"][:, skeleton.mirror] * np.float32([-1, 1, 1]))


def test_evaluation_crop_is_centred_and_filled_by_the_box(tmp_path):
    rng, skeleton = np.random.default_rng(2), load_skeleton("coco_17")
    example = dotted_example(rng, skeleton, "2d")
    x, y, width, height = example.bbox
    corners = np.float32([[x, y + height / 2], [x + width, y + height / 2],
                          [x + width / 2, y], [x + width / 2, y + height]])
    example = dataclasses.replace(example, joints2d=np.concatenate([corners, np.full((13, 2), np.nan, np.float32)]))
    batch = crop_examples(write_prepared(tmp_path, "box", skeleton, [example], "2d"), "train", [0], CROP_SIDE)
    left, right, top, bottom = batch["joints2d"][0, :4]
    np.testing.assert_allclose((left + right) / 2, (CROP_SIDE - 1) / 2, atol=0.2)
    np.testing.assert_allclose((top + bottom) / 2, (CROP_SIDE - 1) / 2, atol=0.2)
    np.testing.assert_allclose(max(right[0] - left[0], bottom[1] - top[1]), CROP_SIDE, atol=0.05)
    np.testing.assert_array_equal(batch["joints2d_mask"][0], [True] * 4 + [False] * 13)
    np.testing.assert_array_equal(batch["joints2d"][0, 4:], 0)


def test_crop_of_a_matching_box_is_the_stored_image(tmp_path):
    """With the box over the whole image and its camera, the crop is the picture itself, decoded independently here."""
    rng = np.random.default_rng(3)
    intrinsics = np.float32([[300, 0, (IMAGE_SIDE - 1) / 2], [0, 300, (IMAGE_SIDE - 1) / 2], [0, 0, 1]])
    example = dataclasses.replace(dotted_example(rng, "coco_17", "2d"), intrinsics=intrinsics,
                                  bbox=np.float32([-0.5, -0.5, IMAGE_SIDE, IMAGE_SIDE]))
    dataset = write_prepared(tmp_path, "whole", "coco_17", [example], "2d")
    for crop_side, tolerance in ((IMAGE_SIDE, 1), (IMAGE_SIDE // 2, 12)):
        crop = crop_examples(dataset, "train", [0], crop_side)["image"][0]
        stored = cv2.imdecode(np.frombuffer(example.image, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        expected = cv2.resize(stored, (crop_side, crop_side), interpolation=cv2.INTER_AREA)
        difference = np.abs(crop.astype(int) - expected)
        assert difference.mean() < tolerance / 4 and np.percentile(difference, 99) <= tolerance


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_reduced_decoding_keeps_positions(tmp_path, reduction):
    """A dot in a large picture is found at the same place of the crop, however much the decoder shrinks it first."""
    side = 512
    image = np.full((side, side, 3), 40, np.uint8)
    point = np.array([301.0, 187.0])
    cv2.circle(image, point.astype(int).tolist(), 24, (255, 255, 255), -1)
    focal = 700.0
    intrinsics = np.float32([[focal, 0, 255.5], [0, focal, 255.5], [0, 0, 1]])
    joints2d = np.full((17, 2), np.nan, np.float32)
    joints2d[0] = point
    example = records.Example(encode_jpeg(image), intrinsics, np.eye(4, dtype=np.float32),
                              bbox=np.float32([90, 100, 300, 290]), joints2d=joints2d)
    dataset = write_prepared(tmp_path, f"large{reduction}", "coco_17", [example], "2d")
    crop_side = {1: 256, 2: 128, 4: 64, 8: 36}[reduction]
    batch = crop_examples(dataset, "train", [0], crop_side)
    assert crops._decoding_reductions(np.float64(intrinsics[None]), np.float64(batch["intrinsics"])) == [reduction]
    np.testing.assert_allclose(dot_center(batch["image"][0]), batch["joints2d"][0, 0], atol=0.3)


def test_warp_by_three_and_four_channels_agree():
    image = np.random.default_rng(4).integers(0, 256, (200, 180, 3), np.uint8)
    crop_to_image = np.array([[1.2, 0.1, -5], [-0.1, 1.1, 20], [1e-4, -2e-4, 1]])
    crop = crops.warp_crop(image, crop_to_image, 128)
    three = cv2.warpPerspective(image, crop_to_image, (128, 128), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    np.testing.assert_array_equal(crop, three)
    np.testing.assert_array_equal(crop[0, 0], 0)  # maps to x = -5: outside


@pytest.mark.parametrize("crop_to_image", [
    [[1.2, 0.1, -5], [-0.1, 1.1, 20], [1e-4, -2e-4, 1]],  # all of the mask in the crop
    [[0.5, 0.1, 60], [-0.1, 0.5, 90], [1e-4, -2e-4, 1]],  # a part of it
    [[0.3, 0, 500], [0, 0.3, 700], [0, 0, 1]],  # nothing
    [[1, 0, 20], [0, 1, 20], [-0.01, 0, 1]]])  # partly behind the camera
@pytest.mark.parametrize("reduction", [1, 2])
def test_cut_out_is_what_the_whole_warp_shows_of_the_mask(crop_to_image, reduction):
    rng, crop_to_image = np.random.default_rng(5), np.array(crop_to_image, np.float64)
    image = rng.integers(0, 256, (200 // reduction, 180 // reduction, 3), np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    region = np.s_[60 // reduction:150 // reduction, 70 // reduction:140 // reduction]
    mask[region] = 255 * rng.integers(0, 2, mask[region].shape)
    premultiplied = np.dstack([image, mask]) * (mask[..., None] > 0)
    to_reduced = np.array([[1 / reduction, 0, 0.5 / reduction - 0.5], [0, 1 / reduction, 0.5 / reduction - 0.5], [0, 0, 1]])
    whole = cv2.warpPerspective(premultiplied, to_reduced @ crop_to_image, (128, 128),
                                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP).astype(int)
    person, left, top = crops.cut_out(image, mask, np.linalg.inv(crop_to_image), crop_to_image, 128, reduction)
    cut = np.zeros((128, 128, 4), int)
    cut[top:top + person.shape[0], left:left + person.shape[1]] = person
    assert np.abs(cut - whole).max() <= 1
    assert whole.any() == (crop_to_image[0, 2] < 500)


@pytest.mark.parametrize("crop_to_image", [
    [[0.3, 0.1, 60], [-0.1, 0.3, 90], [1e-4, -2e-4, 1]],  # inside the image
    [[1.2, 0.1, -35], [-0.1, 1.1, 120], [1e-4, -2e-4, 1]],  # across its border
    [[0.3, 0, 500], [0, 0.3, 700], [0, 0, 1]],  # beyond it
    [[1, 0, 20], [0, 1, 20], [-0.01, 0, 1]]])  # partly behind the camera
@pytest.mark.parametrize("reduction", [1, 2])
def test_the_unseen_part_of_an_image_does_not_matter(crop_to_image, reduction):
    image = np.random.default_rng(6).integers(0, 256, (201 // reduction, 179 // reduction, 3), np.uint8)
    crop_to_image = np.array(crop_to_image, np.float64)
    seen = crops._seen_parts(crop_to_image[None], 128)[0].tolist()
    whole = crops.warp_crop(image, crop_to_image, 128, reduction=reduction)
    part = crops.warp_crop(image, crop_to_image, 128, reduction=reduction, seen=seen)
    assert np.abs(whole.astype(int) - part).max() <= 1  # coordinates are rounded at another origin


def test_missing_labels_are_masked_and_zero(tmp_path):
    rng, skeleton = np.random.default_rng(5), load_skeleton("h36m_17")
    example = dotted_example(rng, skeleton, "3d")
    joints3d = example.joints3d.copy()
    left_knee, right_knee = skeleton.index("left_knee"), skeleton.index("right_knee")
    joints3d[left_knee] = np.nan
    dataset = write_prepared(tmp_path, "gap", skeleton, [dataclasses.replace(example, joints3d=joints3d)], "3d")
    for flip, missing in ((False, left_knee), (True, right_knee)):
        arrays = crop_examples(dataset, "train", [0], CROP_SIDE, geometry={"flip": np.array([flip])})
        assert np.flatnonzero(~arrays["joints3d_mask"][0]).tolist() == [missing]
        np.testing.assert_array_equal(arrays["joints3d"][0, missing], 0)
        assert np.isfinite(arrays["joints3d"]).all()


@pytest.mark.parametrize("side", [CROP_SIDE, 4 * CROP_SIDE])  # also by way of the decoder's reduction
def test_background_is_replaced_around_the_mask_only(tmp_path, side):
    mask = np.zeros((side, side), bool)
    mask[side // 4:3 * side // 4, side // 3:side // 2] = True
    dataset = masked_dataset(tmp_path, mask)
    pictures = Pictures((), np.full((1, CROP_SIDE + 10, CROP_SIDE + 10, 3), (10, 20, 30), np.uint8))
    background = BackgroundChoice(np.array([True]), np.array([[0.5, 0.2, 0.9, 0.7]]))
    crop = crop_examples(dataset, "train", [0], CROP_SIDE, background=background, pictures=pictures)["image"][0].astype(int)
    inside, outside = np.zeros((2, CROP_SIDE, CROP_SIDE), bool)
    inside[26:71, 34:47] = True
    outside[:] = True
    outside[22:75, 30:50] = False
    np.testing.assert_allclose(crop[inside], 200, atol=2)
    np.testing.assert_array_equal(crop[outside], np.broadcast_to((10, 20, 30), crop[outside].shape))
    between = crop[~inside & ~outside, 0]
    assert between.min() >= 9 and between.max() <= 202
    # The share of the person's light that is left is that of the mask.
    weight = (crop[..., 0] - 10) / 190
    np.testing.assert_allclose(weight.sum(), mask.sum() * (CROP_SIDE / side)**2, rtol=0.03)


def test_background_stays_where_the_mask_is_too_small_to_be_right(tmp_path):
    mask = np.zeros((CROP_SIDE, CROP_SIDE), bool)
    mask[40:50, 40:50] = True
    dataset = masked_dataset(tmp_path, mask)
    pictures = Pictures((), np.zeros((1, CROP_SIDE, CROP_SIDE, 3), np.uint8))
    background = BackgroundChoice(np.array([True]), np.array([[0.5, 0.2, 0.9, 0.7]]))
    crop = crop_examples(dataset, "train", [0], CROP_SIDE, background=background, pictures=pictures)["image"][0]
    np.testing.assert_allclose(crop.astype(int), 200, atol=2)


