import dataclasses

import numpy as np
import pytest

from posepile.data import augmentation, sampling
from posepile.data.augmentation import NO_AUGMENTATION, AugmentationConfig
from posepile.data.batches import BatchPlan, make_batch, make_part
from posepile.data.crops import crop_examples
from posepile.data.pictures import Pictures
from posepile.data.tfrecord import CorruptRecordError
from posepile.geometry.skeleton import joint_indices, load_skeleton, merge_skeletons
from tests.posepile.data.prepared import GEOMETRY_ONLY, dotted_example, masked_dataset, write_prepared

CROP_SIDE = 96


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
    plain = crop_examples(dataset, "train", range(5), CROP_SIDE)
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
    plain = crop_examples(plan.datasets_3d[1][0], "train", positions, CROP_SIDE)
    np.testing.assert_array_equal(changed["image"][rows_of_two], plain["image"])
    with pytest.raises(ValueError, match="dataset_augmentation names three, which the plan does not train on"):
        dataclasses.replace(plan, dataset_augmentation={"three": NO_AUGMENTATION})


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
        crop_examples(dataset, "train", [0, 1, 2], CROP_SIDE)

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


def test_substitutes_do_not_depend_on_how_many_steps_are_made_at_once(tmp_path):
    rng = np.random.default_rng(8)
    examples = [dataclasses.replace(dotted_example(rng, "smpl_24", "3d"), image=b"nothing") for _ in range(7)]
    dataset = write_prepared(tmp_path, "worn", "smpl_24", [*examples, dotted_example(rng, "smpl_24", "3d")], "3d")
    plan = single_plan(dataset, 2, skip_bad=True)
    block = make_part(plan, plan.parts[0], 1, 0, num_steps=40)  # more substitutions in all than one example may need
    for step in (0, 17, 39):
        np.testing.assert_array_equal(block["image"][2 * step:2 * step + 2], make_part(plan, plan.parts[0], 1, step)["image"])


def test_a_data_set_of_bad_records_ends_the_training(tmp_path):
    example = dataclasses.replace(dotted_example(np.random.default_rng(7), "smpl_24", "3d"), image=b"nothing")
    plan = single_plan(write_prepared(tmp_path, "bad", "smpl_24", [example] * 3, "3d"), 2, skip_bad=True)
    with pytest.raises(CorruptRecordError, match=r"records of data set bad on end cannot be used; the last one: .* at byte"):
        make_batch(plan, 1, 0)
