import dataclasses

import cv2
import numpy as np
import pytest

from posepile.data import augmentation, batches, records, sampling
from posepile.data.augmentation import NO_AUGMENTATION, AugmentationConfig, BackgroundChoice
from posepile.data.batches import BatchPlan, crop_examples, make_batch, make_evaluation_batch, make_part
from posepile.data.pictures import Pictures
from posepile.data.tfrecord import CorruptRecordError
from posepile.geometry import camera
from posepile.geometry.skeleton import joint_indices, load_skeleton, merge_skeletons
from tests.posepile.data.prepared import IMAGE_SIDE, dotted_example, encode_jpeg, write_prepared

CROP_SIDE = 96
GEOMETRY_ONLY = dataclasses.replace(
    NO_AUGMENTATION, **{name: getattr(AugmentationConfig(), name)
                        for name in ("shift", "zoom", "roll_degrees", "flip_probability")})


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


def single_plan(dataset, examples_per_batch, config=None, **settings):
    """A plan that reads one 3D data set, or one 2D data set beside a 3D one that does not matter."""
    return BatchPlan([(dataset, examples_per_batch)], [], CROP_SIDE, augmentation=config or AugmentationConfig(), **settings)


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
    crop = batches.warp_crop(image, crop_to_image, 128)
    three = cv2.warpPerspective(image, crop_to_image, (128, 128), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    np.testing.assert_array_equal(crop, three)
    np.testing.assert_array_equal(crop[0, 0], 0)  # maps to x = -5: outside
    alpha = np.random.default_rng(5).integers(0, 256, (200, 180), np.uint8)
    with_alpha = batches.warp_crop(image, crop_to_image, 128, alpha=alpha)
    np.testing.assert_array_equal(with_alpha[0], three)
    np.testing.assert_array_equal(with_alpha[1], cv2.warpPerspective(
        alpha, crop_to_image, (128, 128), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))


@pytest.mark.parametrize("crop_to_image", [
    [[0.3, 0.1, 60], [-0.1, 0.3, 90], [1e-4, -2e-4, 1]],  # inside the image
    [[1.2, 0.1, -35], [-0.1, 1.1, 120], [1e-4, -2e-4, 1]],  # across its border
    [[0.3, 0, 500], [0, 0.3, 700], [0, 0, 1]],  # beyond it
    [[1, 0, 20], [0, 1, 20], [-0.01, 0, 1]]])  # partly behind the camera
@pytest.mark.parametrize("reduction", [1, 2])
def test_the_unseen_part_of_an_image_does_not_matter(crop_to_image, reduction):
    image = np.random.default_rng(6).integers(0, 256, (201 // reduction, 179 // reduction, 3), np.uint8)
    crop_to_image = np.array(crop_to_image, np.float64)
    seen = batches._seen_parts(crop_to_image[None], 128)[0].tolist()
    whole = batches.warp_crop(image, crop_to_image, 128, reduction=reduction)
    part = batches.warp_crop(image, crop_to_image, 128, reduction=reduction, seen=seen)
    assert np.abs(whole.astype(int) - part).max() <= 1  # coordinates are rounded at another origin


def test_batch_holds_every_dataset_in_its_rows(plan):
    batch = make_batch(plan, seed=1, step=2)
    assert {name: (array.shape, array.dtype.type) for name, array in batch.items()} == plan.array_specs()
    assert batch["image"].shape == (10, CROP_SIDE, CROP_SIDE, 3) and batch["joints3d"].shape == (6, 24 + 17, 3)
    assert batch["joints2d"].shape == (4, 21, 2)
    merged = merge_skeletons([load_skeleton("smpl_24"), load_skeleton("h36m_17")])
    assert plan.skeleton == merged
    # interleave([4, 2]): of each the next within 6/4 and 6/2 places, rounded up.
    rows = {"one": [0, 2, 3, 5], "two": [1, 4], "flat": [6, 7, 9], "even": [8]}
    for part in plan.parts:
        np.testing.assert_array_equal(np.sort(part.rows), rows[part.dataset.name])
        own = make_part(plan, part, 1, 2)
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
    even = make_part(plan, plan.parts[3], 1, 0)
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
    part = plan.parts[0]
    block = make_part(plan, part, 1, 5, num_steps=3)
    for i in range(3):
        single = make_part(plan, part, 1, 5 + i)
        for name, values in single.items():
            np.testing.assert_array_equal(block[name][4 * i:4 * i + 4], values)


def test_one_epoch_shows_each_example_once(plan):
    dataset = plan.datasets_3d[1][0]
    plan = single_plan(dataset, 5, NO_AUGMENTATION)
    arrays = make_part(plan, plan.parts[0], 1, 0)
    plain = make_evaluation_batch(dataset, "train", range(5), CROP_SIDE)
    assert sorted(image.tobytes() for image in arrays["image"]) == sorted(image.tobytes() for image in plain["image"])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_workers_batches_together_are_the_batch(plan, num_workers):
    whole = make_batch(plan, 1, 7)
    shares = [make_batch(plan.share(worker, num_workers), 1, 7) for worker in range(num_workers)]
    for name in ("joints3d", "joints3d_mask", "joints2d", "joints2d_mask"):
        np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), whole[name])
    for name in ("image", "intrinsics"):
        num_3d = 6 // num_workers
        rows = [share[name][:num_3d] for share in shares] + [share[name][num_3d:] for share in shares]
        np.testing.assert_array_equal(np.concatenate(rows), whole[name])


def test_unequal_shares_are_refused(plan):
    with pytest.raises(ValueError, match="4 examples with 2D labels per batch cannot be shared equally by 3 workers"):
        plan.share(0, 3)
    with pytest.raises(ValueError, match="worker 2 of 2: expected 0 to 1"):
        plan.share(2, 2)


def test_a_data_set_may_have_its_own_augmentation(plan):
    own = dataclasses.replace(plan, dataset_augmentation={"two": NO_AUGMENTATION})
    usual, changed = make_batch(plan, 1, 0), make_batch(own, 1, 0)
    rows_of_two = plan.parts[1].rows
    others = np.setdiff1d(np.arange(10), rows_of_two)
    np.testing.assert_array_equal(changed["image"][others], usual["image"][others])
    positions = sampling.sample_positions(1, "two", 5, 0, 2)
    plain = make_evaluation_batch(plan.datasets_3d[1][0], "train", positions, CROP_SIDE)
    np.testing.assert_array_equal(changed["image"][rows_of_two], plain["image"])
    with pytest.raises(ValueError, match="dataset_augmentation names three, which the plan does not train on"):
        dataclasses.replace(plan, dataset_augmentation={"three": NO_AUGMENTATION})


def masked_dataset(root, mask, image_value=200):
    """One person, plain bright, with this mask, in a camera whose crop is the stored picture."""
    side = len(mask)
    intrinsics = np.float32([[300, 0, (side - 1) / 2], [0, 300, (side - 1) / 2], [0, 0, 1]])
    example = records.Example(encode_jpeg(np.full((side, side, 3), image_value, np.uint8)), intrinsics,
                              np.eye(4, dtype=np.float32), np.float32([-0.5, -0.5, side, side]),
                              joints3d=np.full((17, 3), 3000, np.float32), mask_rle=records.encode_mask(mask))
    return write_prepared(root, "masked", "h36m_17", [example], "3d")


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


def test_share_of_replaced_backgrounds_and_occlusions(tmp_path):
    """Counted in crops of plain people before plain pictures."""
    mask = np.zeros((CROP_SIDE, CROP_SIDE), bool)
    mask[24:72, 24:72] = True
    dataset = masked_dataset(tmp_path, mask)
    green = np.full((40, 40, 4), (0, 255, 0, 255), np.uint8)
    pictures = Pictures((green,), np.full((1, CROP_SIDE, CROP_SIDE, 3), (255, 0, 0), np.uint8))
    config = dataclasses.replace(NO_AUGMENTATION, background_probability=0.7, occlusion_probability=0.5,
                                 occluder_scale=(0.8, 1))
    plan = single_plan(dataset, 400, config, pictures=pictures)
    images = make_part(plan, plan.parts[0], 5, 0)["image"].astype(int)
    red, gray = ((np.abs(images - color).max(axis=-1) <= 3).mean(axis=(1, 2)) for color in ((255, 0, 0), (200, 200, 200)))
    is_green = (np.abs(images - (0, 255, 0)).max(axis=-1) <= 3).mean(axis=(1, 2))
    assert abs(np.mean(red > 0.01) - 0.7) < 0.07
    assert abs(np.mean(is_green > 0.01) - 0.25) < 0.07  # objects are half of the occlusions
    erased = 1 - red - gray - is_green  # noise
    assert abs(np.mean(erased > 0.015) - 0.25) < 0.07


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

    # Passed over, it is replaced by the next example, with the variations of its place in the batch.
    plan = single_plan(dataset, 6, GEOMETRY_ONLY, skip_bad=True)
    arrays = make_part(plan, plan.parts[0], 1, 0)
    positions = sampling.example_positions(1, "broken", 3, np.arange(6)).tolist()
    substitutes = [2 if position == 1 else position for position in positions]
    expected = crop_examples(dataset, "train", substitutes, CROP_SIDE,
                             geometry=augmentation.random_geometry(GEOMETRY_ONLY, 1, "broken", np.arange(6)))
    for name, values in expected.items():
        np.testing.assert_array_equal(arrays[name], values)
    assert plan.skipped_records.keys() == {("broken", 1)} and str(offset) in plan.skipped_records["broken", 1]


def test_a_data_set_of_bad_records_ends_the_training(tmp_path):
    example = dataclasses.replace(dotted_example(np.random.default_rng(7), "smpl_24", "3d"), image=b"nothing")
    plan = single_plan(write_prepared(tmp_path, "bad", "smpl_24", [example] * 3, "3d"), 2, skip_bad=True)
    with pytest.raises(CorruptRecordError, match=r"records of data set bad cannot be used; the last one: .* at byte"):
        make_batch(plan, 1, 0)
