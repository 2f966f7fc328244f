import dataclasses

import cv2
import numpy as np
import pytest

from posepile.data import augmentation, batches, records, sampling
from posepile.data.augmentation import NO_AUGMENTATION, AugmentationConfig
from posepile.data.batches import BatchPlan, crop_examples, make_batch, make_evaluation_batch, make_part
from posepile.data.tfrecord import CorruptRecordError
from posepile.geometry import camera
from posepile.geometry.skeleton import joint_indices, load_skeleton, merge_skeletons
from tests.posepile.data.prepared import IMAGE_SIDE, dotted_example, encode_jpeg, write_prepared

CROP_SIDE = 96
GEOMETRY_ONLY = AugmentationConfig(brightness=0, contrast=(1, 1), hue_degrees=0, saturation=(1, 1))


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def plan(data_root):
    rng = np.random.default_rng(0)

    def prepare(name, skeleton, kind, num_examples, num_shards):
        examples = [dotted_example(rng, skeleton, kind) for _ in range(num_examples)]
        return write_prepared(data_root, name, skeleton, examples, kind, num_shards=num_shards)

    one, two = prepare("one", "smpl_24", "3d", 11, 3), prepare("two", "h36m_17", "3d", 5, 1)
    flat, even = prepare("flat", "coco_17", "2d", 7, 2), prepare("even", "mpii_16", "2d", 4, 1)
    return BatchPlan([(one, 4), (two, 2)], [(flat, 3), (even, 1)], CROP_SIDE)


def dot_center(image):
    """Centre of mass, px, of what is brighter than the background."""
    weight = np.clip(image.astype(np.float64).mean(axis=-1) - 90, 0, None)
    y, x = np.mgrid[:image.shape[0], :image.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("kind, skeleton_name", [("3d", "smpl_24"), ("2d", "coco_17")])
def test_image_and_labels_undergo_the_same_augmentation(tmp_path, kind, skeleton_name):
    """The dot painted on a joint of the stored image is found, after augmentation, where the labels say.

    In mirrored examples that is the mirrored joint's label: a person's left hand is then seen as a right hand.
    """
    rng, skeleton = np.random.default_rng(1), load_skeleton(skeleton_name)
    dot_joints = rng.integers(0, skeleton.num_joints, 60)
    examples = [dotted_example(rng, skeleton, kind, joint) for joint in dot_joints]
    dataset = write_prepared(tmp_path, "dots", skeleton, examples, kind)
    arrays = make_part(dataset, "train", 3, 0, 60, CROP_SIDE, GEOMETRY_ONLY)
    positions = sampling.sample_positions(3, "dots", 60, 0, 60)
    flip = augmentation.random_geometry(GEOMETRY_ONLY, 3, "dots", np.arange(60))["flip"]
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
    assert num_checked[False] > 15 and num_checked[True] > 15


def test_flip_is_a_mirror_image_with_sides_swapped(plan):
    dataset, skeleton = plan.datasets_3d[0][0], plan.datasets_3d[0][0].skeleton
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
    batch = make_evaluation_batch(write_prepared(tmp_path, "box", skeleton, [example], "2d"), "train", [0], CROP_SIDE)
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
        crop = make_evaluation_batch(dataset, "train", [0], crop_side)["image"][0]
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
    batch = make_evaluation_batch(dataset, "train", [0], crop_side)
    assert batches._decoding_reductions(np.float64(intrinsics[None]), np.float64(batch["intrinsics"])) == [reduction]
    np.testing.assert_allclose(dot_center(batch["image"][0]), batch["joints2d"][0, 0], atol=0.3)


def test_warp_by_three_and_four_channels_agree():
    image = np.random.default_rng(4).integers(0, 256, (200, 180, 3), np.uint8)
    crop_to_image = np.array([[1.2, 0.1, -5], [-0.1, 1.1, 20], [1e-4, -2e-4, 1]])
    crop = np.empty((128, 128, 3), np.uint8)
    assert batches.warp_crop(image, crop_to_image, 128, crop=crop) is not None
    three = cv2.warpPerspective(image, crop_to_image, (128, 128), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    np.testing.assert_array_equal(crop, three)
    np.testing.assert_array_equal(crop[0, 0], 0)  # maps to x = -5: outside


def test_batch_holds_every_dataset_in_its_rows(plan):
    batch = make_batch(plan, seed=1, step=2)
    assert {name: (array.shape, array.dtype.type) for name, array in batch.items()} == plan.array_specs()
    assert batch["image"].shape == (10, CROP_SIDE, CROP_SIDE, 3) and batch["joints3d"].shape == (6, 24 + 17, 3)
    assert batch["joints2d"].shape == (4, 21, 2)
    merged = merge_skeletons([load_skeleton("smpl_24"), load_skeleton("h36m_17")])
    assert plan.skeleton == merged
    # interleave([4, 2]): places 1/8 1/4 3/8 5/8 3/4 7/8.
    rows = {"one": [0, 2, 3, 5], "two": [1, 4], "flat": [6, 7, 9], "even": [8]}
    for part in plan.parts:
        np.testing.assert_array_equal(np.sort(part.rows), rows[part.dataset.name])
        own = make_part(part.dataset, "train", 1, 2, part.examples_per_batch, CROP_SIDE, plan.augmentation)
        np.testing.assert_array_equal(batch["image"][part.rows], own["image"])
        np.testing.assert_array_equal(batch["intrinsics"][part.rows], own["intrinsics"])
    one, two = plan.datasets_3d[0][0], plan.datasets_3d[1][0]
    for dataset, own_rows in ((one, rows["one"]), (two, rows["two"])):
        expected = np.zeros(41, bool)
        expected[joint_indices(merged, dataset.skeleton)] = True
        np.testing.assert_array_equal(batch["joints3d_mask"][own_rows], np.broadcast_to(expected, (len(own_rows), 41)))
    assert not batch["joints3d"][~batch["joints3d_mask"]].any()
    assert not batch["joints2d"][~batch["joints2d_mask"]].any()


def test_joint_names_2d_are_the_union_of_plain_names(plan):
    coco, mpii = load_skeleton("coco_17").joint_names, load_skeleton("mpii_16").joint_names
    assert plan.joint_names_2d == (*coco, "pelvis", "thorax", "upper_neck", "head_top")
    batch = make_batch(plan, 1, 0)
    mask = batch["joints2d_mask"]
    np.testing.assert_array_equal(mask[2], [name in mpii for name in plan.joint_names_2d])
    even = make_part(plan.datasets_2d[1][0], "train", 1, 0, 1, CROP_SIDE, plan.augmentation)
    for name in ("left_knee", "thorax"):
        np.testing.assert_array_equal(batch["joints2d"][2, plan.joint_names_2d.index(name)],
                                      even["joints2d"][0, mpii.index(name)])


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


def test_batches_depend_on_seed_and_step_only(plan):
    first, again, later, other = (make_batch(plan, seed, step) for seed, step in ((1, 3), (1, 3), (1, 4), (2, 3)))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    for name in ("image", "intrinsics", "joints3d", "joints2d"):
        assert (first[name] != later[name]).any() and (first[name] != other[name]).any()


def test_several_steps_at_once_equal_single_steps(plan):
    dataset = plan.datasets_3d[0][0]
    block = make_part(dataset, "train", 1, 5, 4, CROP_SIDE, plan.augmentation, num_steps=3)
    for i in range(3):
        single = make_part(dataset, "train", 1, 5 + i, 4, CROP_SIDE, plan.augmentation)
        for name, values in single.items():
            np.testing.assert_array_equal(block[name][4 * i:4 * i + 4], values)


def test_one_epoch_shows_each_example_once(plan):
    dataset = plan.datasets_3d[1][0]
    arrays = make_part(dataset, "train", 1, 0, 5, CROP_SIDE, NO_AUGMENTATION)
    plain = make_evaluation_batch(dataset, "train", range(5), CROP_SIDE)
    assert sorted(image.tobytes() for image in arrays["image"]) == sorted(image.tobytes() for image in plain["image"])


def test_plan_without_2d_datasets(plan):
    plan = BatchPlan(plan.datasets_3d, [], CROP_SIDE)
    batch = make_batch(plan, 1, 0)
    assert batch["joints2d"].shape == (0, 0, 2) and batch["joints2d_mask"].shape == (0, 0)
    assert batch["image"].shape[0] == 6


def test_impossible_plans_are_refused(plan, data_root):
    one, flat = plan.datasets_3d[0][0], plan.datasets_2d[0][0]
    with pytest.raises(ValueError, match="flat has 2d labels, but is listed under datasets_3d"):
        BatchPlan([(flat, 1)], [], 64)
    with pytest.raises(ValueError, match="data set one: 0 examples per batch"):
        BatchPlan([(one, 0)], [], 64)
    with pytest.raises(ValueError, match="listed more than once in a batch plan: one"):
        BatchPlan([(one, 1), (one, 2)], [], 64)
    with pytest.raises(ValueError, match="needs one data set or more with 3D labels"):
        BatchPlan([], [(flat, 1)], 64)
    with pytest.raises(ValueError, match="has no joint 'pelvis_smpl'"):
        BatchPlan([(one, 1)], [], 64, skeleton=merge_skeletons([load_skeleton("h36m_17")]))
    with pytest.raises(ValueError, match=r"flat labels left_eye, .* which joint_names_2d lacks"):
        BatchPlan([(one, 1)], [(flat, 1)], 64, joint_names_2d=["nose"])
    with pytest.raises(ValueError, match="no validation split; it has: train"):
        BatchPlan([(one, 1)], [], 64, split="validation")


@pytest.mark.parametrize("change, message", [
    ({"image": b"\xff\xd8 not a JPEG"}, "the image cannot be decoded"),
    ({"image": b""}, "the image cannot be decoded"),
    ({"bbox": np.float32([10, 10, 0, 50])}, "expected a box of positive size"),
    ({"bbox": np.float32([10, np.nan, 5, 50])}, "expected a box of positive size"),
    ({"intrinsics": np.zeros((3, 3), np.float32)}, "positive focal lengths"),
    ({"joints3d": None, "joints2d": np.zeros((24, 2), np.float32)}, "the record has no joints3d")])
def test_unusable_record_is_named_by_file_and_offset(tmp_path, change, message):
    rng = np.random.default_rng(6)
    examples = [dotted_example(rng, "smpl_24", "3d") for _ in range(3)]
    examples[1] = dataclasses.replace(examples[1], **change)
    dataset = write_prepared(tmp_path, "broken", "smpl_24", examples, "3d")
    offset = int(dataset.index("train")[1, 1])
    with pytest.raises(CorruptRecordError, match=rf"train-00000-of-00001\.tfrecord at byte {offset}: .*{message}"):
        make_evaluation_batch(dataset, "train", [0, 1, 2], CROP_SIDE)
