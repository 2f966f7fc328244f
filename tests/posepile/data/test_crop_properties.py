"""Where the pixels and the labels of training crops go, proven by pictures that a formula paints.

A homography built anew (`reference_homography`), or the one that the labels imply, says which point of the stored picture
every pixel of a crop shows; the formula says what is to be seen there. How far a crop is displaced follows from what is
left: the difference to the formula is fitted by its derivatives, so the noise of JPEG averages out, and a thousandth of a
pixel can be told.
"""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posepile.data import sampling
from posepile.data.augmentation import NO_AUGMENTATION, AugmentationConfig, BackgroundChoice
from posepile.data.batches import BatchPlan, make_batch, make_part
from posepile.data.crops import crop_examples
from posepile.data.pictures import Pictures
from posepile.data.records import Example, encode_mask
from posepile.geometry import camera
from posepile.geometry.skeleton import load_skeleton
from tests.posepile.data.prepared import dotted_example, encode_jpeg, write_prepared
from tests.posepile.geometry.test_camera_properties import (
    apply_homography,
    boxes,
    geometries,
    intrinsics_matrices,
    numbers,
    reference_homography,
)

CROP_SIDE = 128
LARGE_SIZE = (1683, 1525)  # px; not divisible by the decoder's reductions
ALL_GEOMETRY = dataclasses.replace(
    NO_AUGMENTATION, shift=0.1, zoom=(0.75, 1.25), roll_degrees=20, flip_probability=0.5,
    partial_visibility_probability=0.6, partial_visibility_side=(0.4, 1.0))


def check(max_examples):
    return settings(derandomize=True, deadline=None, max_examples=max_examples, print_blob=False)


def pattern(points, period):
    """Gray values 38 .. 218 of two crossing waves, at points [..., 2], px."""
    x, y = points[..., 0] * 2 * np.pi / period, points[..., 1] * 2 * np.pi / period
    return 128 + 45 * np.sin(0.8 * x + 0.6 * y + 0.3) + 45 * np.sin(-0.58 * x + 0.59 * y + 1)


def pixel_grid(width, height):
    """[height, width, 2] px."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)


def paint(width, height, gray_values):
    """[height, width, 3] uint8: what a function of points says."""
    return np.repeat(np.uint8(np.rint(gray_values(pixel_grid(width, height))))[..., None], 3, axis=2)


def example_of(rng, image, skeleton, focal, bbox):
    """A record of an encoded image, with joints around the box; not quite square pixels, principal point off the centre."""
    height, width = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    center = [rng.uniform(0.35, 0.65) * width, rng.uniform(0.35, 0.65) * height]
    intrinsics = np.float32([[focal, 0, center[0]], [0, focal * rng.uniform(0.95, 1.05), center[1]], [0, 0, 1]])
    pixels = bbox[:2] + bbox[2:] * rng.uniform(-0.1, 1.1, (skeleton.num_joints, 2))
    joints3d = np.insert((pixels - center) / intrinsics[[0, 1], [0, 1]], 2, 1, axis=1)
    joints3d *= rng.uniform(2500, 4000, (skeleton.num_joints, 1))
    return Example(image, intrinsics, np.eye(4, dtype=np.float32), np.float32(bbox), joints3d=np.float32(joints3d))


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Prepared pictures of the pattern, boxes up to and across the border; and the same pattern, 6 times as large."""
    rng, skeleton, folder = np.random.default_rng(0), load_skeleton("smpl_24"), tmp_path_factory.mktemp("painted")
    examples = []
    for _ in range(12):
        width, height = (int(side) for side in rng.integers(250, 330, 2))
        size = rng.uniform(80, 220, 2)
        bbox = np.concatenate([rng.uniform(-20, [width, height] - size + 20), size])
        image = encode_jpeg(paint(width, height, lambda points: pattern(points, 36)))
        examples.append(example_of(rng, image, skeleton, rng.uniform(400, 1500), bbox))
    large = example_of(rng, encode_jpeg(paint(*LARGE_SIZE, lambda points: pattern(points, 240))), skeleton, 4000.0,
                       np.array([500, 300, 620, 1000]))
    return (write_prepared(folder, "painted", skeleton, examples, "3d", num_shards=2),
            write_prepared(folder, "large", skeleton, [large], "3d"))


def assert_shows(crop, points, period, size, margin, max_displacement=0.03, max_error=4, enlargement=1):
    """Compares every pixel of a crop with the pattern at the point it shows, farther than `margin` from the image's border.

    Besides the displacement (an affine function of the position), brightness and contrast are fitted, which averaging
    lowers by a percent. The displacement counts in the largest pixels of crop, image, and, where the crop is an
    `enlargement` of a stored picture, that: measured at its largest place it is 0.005 on average and up to 0.019. The single
    pixel's error is JPEG's, by up to 2.3 of 255.
    """
    (height, width), expected = crop.shape[:2], pattern(points, period)
    is_known = ((points > margin) & (points < np.array(size) - 1 - margin)).all(axis=-1)
    assert is_known.mean() > 0.1
    difference = crop.astype(np.float64).mean(axis=-1) - expected
    assert np.abs(difference[is_known]).max() < max_error
    grad_y, grad_x = np.gradient(expected)
    u, v = np.moveaxis(pixel_grid(width, height) / [width, height] - 0.5, -1, 0)
    terms = np.stack([grad_x, grad_x * u, grad_x * v, grad_y, grad_y * u, grad_y * v, expected, np.ones_like(u)], axis=-1)
    fit, *_ = np.linalg.lstsq(terms[is_known], -difference[is_known], rcond=None)
    places = np.stack([np.ones_like(u), u, v], axis=-1)[is_known]
    displacement = np.hypot(places @ fit[:3], places @ fit[3:6]).max()
    displacement *= min(1, 1 / enlargement, np.linalg.norm(np.diff(points, axis=1), axis=-1).mean())
    assert displacement < max_displacement, f"crop displaced by {displacement:.4f} px"


def sources(homography, side):
    """[side, side, 2]: the points of the stored picture that a crop's pixels show."""
    grid = pixel_grid(side, side).reshape(-1, 2)
    return apply_homography(np.linalg.inv(homography), grid).reshape(side, side, 2)


def size_of(example):
    return example.decode_image().shape[1::-1]


def as_arrays(geometry):
    return {name: np.array([value]) for name, value in geometry.items()}


small_geometries = st.fixed_dictionaries({
    "shift": st.tuples(numbers(-0.15, 0.15), numbers(-0.15, 0.15)), "zoom": numbers(0.75, 1.8),
    "roll": numbers(-0.5, 0.5), "flip": st.booleans()})


@check(40)
@given(position=st.integers(0, 11), geometry=small_geometries, crop_side=st.sampled_from([CROP_SIDE, 224]))
def test_every_pixel_shows_what_the_homography_says(painted, position, geometry, crop_side):
    dataset, _ = painted
    example = dataset.read("train", position)
    crop = crop_examples(dataset, "train", [position], crop_side, geometry=as_arrays(geometry))["image"][0]
    points = sources(reference_homography(np.float64(example.intrinsics), np.float64(example.bbox), crop_side, **geometry),
                     crop_side)
    assert_shows(crop, points, 36, size_of(example), margin=4)


@pytest.mark.parametrize("crop_side, reduction", [(256, 4), (96, 8), (64, 8)])
@check(3)
@given(geometry=small_geometries)
def test_every_pixel_shows_what_the_homography_says_after_reduced_decoding(painted, crop_side, reduction, geometry):
    _, dataset = painted
    geometry = {**geometry, "zoom": min(geometry["zoom"], 0.9)}
    example = dataset.read("train", 0)
    arrays = crop_examples(dataset, "train", [0], crop_side, geometry=as_arrays(geometry))
    assert example.intrinsics[0, 0] / arrays["intrinsics"][0, 0, 0] > reduction  # so that the decoder is made to reduce
    points = sources(reference_homography(np.float64(example.intrinsics), np.float64(example.bbox), crop_side, **geometry),
                     crop_side)
    assert_shows(arrays["image"][0], points, 240, LARGE_SIZE, margin=2 * reduction)


def labelled_homography(example, joints3d, crop_intrinsics, skeleton):
    """The homography that the labels of a crop imply: the linear map from the stored joints to its joints, as they are or
    with the sides swapped by name; and whether they are. Joints may be missing."""
    names = skeleton.joint_names
    swapped = [names.index(mirror_name(name)) for name in names]
    known = joints3d.any(axis=-1)
    for order in (np.arange(len(names)), swapped):
        rotation, *_ = np.linalg.lstsq(example.joints3d[order][known].astype(np.float64), joints3d[known], rcond=None)
        if np.abs(example.joints3d[order][known] @ rotation - joints3d[known]).max() < 0.01:
            homography = crop_intrinsics.astype(np.float64) @ rotation.T @ np.linalg.inv(np.float64(example.intrinsics))
            return homography, rotation.T, order is swapped
    raise AssertionError("no linear map takes the stored joints to the joints of the crop")


def mirror_name(name):
    """Of a joint: left for right and right for left."""
    return name.replace("left_", "\0").replace("right_", "left_").replace("\0", "right_")


@check(12)
@given(seed=st.integers(0, 10_000), step=st.integers(0, 10**9))
def test_labels_and_pixels_of_random_crops_agree(painted, seed, step):
    """All random geometry combined, partial visibility included: the picture is where the labels say, mirrored where the
    labels are."""
    dataset, _ = painted
    plan = BatchPlan([(dataset, 4)], [], CROP_SIDE, augmentation=ALL_GEOMETRY)
    arrays = make_part(plan, plan.parts[0], seed, step)
    for row, position in enumerate(sampling.sample_positions(seed, "painted", 12, step, 4)):
        example = dataset.read("train", position)
        homography, rotation, is_mirrored = labelled_homography(
            example, arrays["joints3d"][row], arrays["intrinsics"][row], dataset.skeleton)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(rotation) == pytest.approx(-1 if is_mirrored else 1, abs=1e-5)
        points = sources(homography, CROP_SIDE)
        assert_shows(arrays["image"][row], points, 36, size_of(example), margin=4)


def test_dots_lie_where_the_joints_project(tmp_path):
    """The centre of light of every dot, in crops of all random geometry. The dots are round in the stored picture."""
    rng, skeleton, sigma = np.random.default_rng(1), load_skeleton("h36m_17"), 4.0
    spots = [np.array([(0.25 + 0.25 * i + rng.uniform(-0.04, 0.04)) * 400, (0.25 + 0.25 * j + rng.uniform(-0.04, 0.04)) * 360])
             for i in range(3) for j in range(3)]

    def light(points):
        return 30 + 200 * sum(np.exp(-((points - spot)**2).sum(axis=-1) / (2 * sigma**2)) for spot in spots)

    example = example_of(rng, encode_jpeg(paint(400, 360, light)), skeleton, 700.0, np.array([80, 60, 240, 240]))
    joints3d = example.joints3d.copy()
    rays = np.insert((spots - example.intrinsics[:2, 2]) / example.intrinsics[[0, 1], [0, 1]], 2, 1, axis=1)
    joints3d[:9] = rays * rng.uniform(2500, 4000, (9, 1))
    dataset = write_prepared(tmp_path, "dots", skeleton, [dataclasses.replace(example, joints3d=joints3d)], "3d")
    plan = BatchPlan([(dataset, 40)], [], 256, augmentation=ALL_GEOMETRY)
    arrays = make_part(plan, plan.parts[0], 1, 0)
    grid, errors = pixel_grid(256, 256), []
    for crop, intrinsics, joints in zip(arrays["image"], arrays["intrinsics"], arrays["joints3d"], strict=True):
        _, _, is_mirrored = labelled_homography(dataset.read("train", 0), joints, intrinsics, skeleton)
        order = [skeleton.index(mirror_name(name)) if is_mirrored else i for i, name in enumerate(skeleton.joint_names)]
        radius = 4.5 * sigma * intrinsics[0, 0] / example.intrinsics[0, 0]
        for point in camera.project(joints, intrinsics)[order][:9]:
            if (np.abs(point - 127.5) < 126 - radius).all():
                weight = np.clip(crop[..., 0] - 34.0, 0, None) * (np.hypot(*np.moveaxis(grid - point, -1, 0)) < radius)
                errors.append(np.linalg.norm((weight[..., None] * grid).sum(axis=(0, 1)) / weight.sum() - point))
    assert len(errors) > 150 and max(errors) < 0.05 and np.mean(errors) < 0.02  # measured: 0.015 and 0.006


joint_noise = st.integers(0, 10_000)


@check(40)
@given(examples=st.lists(st.tuples(intrinsics_matrices(), boxes(), geometries(), joint_noise), min_size=1, max_size=4),
       kind=st.sampled_from(["3d", "2d"]))
def test_joints_move_with_the_camera_as_the_homography_moves_their_projections(tmp_path_factory, examples, kind):
    """Cameras, boxes and variations of all kinds. With 3D labels, the projection of the crop's joints by the crop's camera is
    compared; in a mirrored crop, a left joint lies where the homography takes the right one."""
    skeleton = load_skeleton("coco_17")
    image = encode_jpeg(np.full((40, 40, 3), 128, np.uint8))
    stored, expected = [], []
    for intrinsics, bbox, geometry, noise in examples:
        rng, intrinsics = np.random.default_rng(noise), np.float32(intrinsics)
        pixels = bbox[:2] + bbox[2:] * rng.uniform(0, 1, (17, 2))
        depth = rng.uniform(1500, 8000, (17, 1))
        joints3d = np.float32(depth * np.insert((pixels - intrinsics[:2, 2]) / intrinsics[[0, 1], [0, 1]], 2, 1, axis=1))
        pixels = np.float32(pixels) if kind == "2d" else camera.project(np.float64(joints3d), np.float64(intrinsics))
        joints = {"joints3d": joints3d} if kind == "3d" else {"joints2d": pixels}
        stored.append(Example(image, intrinsics, np.eye(4, dtype=np.float32), np.float32(bbox), **joints))
        moved = apply_homography(reference_homography(np.float64(intrinsics), np.float64(np.float32(bbox)), 64, **geometry),
                                 pixels)
        if geometry["flip"]:
            moved = moved[[skeleton.index(mirror_name(name)) for name in skeleton.joint_names]]
        expected.append(moved)
    dataset = write_prepared(tmp_path_factory.mktemp("cameras"), "cameras", skeleton, stored, kind)
    geometry = {name: np.array([geometry[name] for _, _, geometry, _ in examples]) for name in examples[0][2]}
    arrays = crop_examples(dataset, "train", range(len(examples)), 64, geometry=geometry)
    found = arrays["joints2d"] if kind == "2d" else camera.project(
        arrays["joints3d"].astype(np.float64), arrays["intrinsics"].astype(np.float64))
    expected = np.array(expected)
    in_front = np.isfinite(found).all(axis=-1)
    assert in_front.any()
    np.testing.assert_allclose(found[in_front], expected[in_front], rtol=3e-6, atol=2e-3)


def test_what_is_changed_in_the_picture_changes_no_label(painted):
    dataset, _ = painted
    full = AugmentationConfig(partial_visibility_probability=0.5, occlusion_probability=1.0)
    plain = dataclasses.replace(full, **{field.name: getattr(NO_AUGMENTATION, field.name) for field in dataclasses.fields(full)
                                         if not field.name.startswith(("shift", "zoom", "roll", "flip", "partial"))})
    changed, unchanged = (make_batch(BatchPlan([(dataset, 8)], [], 64, augmentation=config), 1, 5) for config in (full, plain))
    for name in set(changed) - {"image"}:
        np.testing.assert_array_equal(changed[name], unchanged[name])
    assert (np.abs(changed["image"].astype(int) - unchanged["image"]).mean(axis=(1, 2, 3)) > 3).all()


@check(15)
@given(skeleton_name=st.sampled_from(["smpl_24", "coco_17", "h36m_17"]), kind=st.sampled_from(["3d", "2d"]),
       geometry=small_geometries, seed=st.integers(0, 99))
def test_flip_mirrors_the_picture_and_swaps_names_and_flip_twice_is_the_identity(tmp_path_factory, skeleton_name, kind,
                                                                                 geometry, seed):
    folder, skeleton, side = tmp_path_factory.mktemp("flip"), load_skeleton(skeleton_name), 96
    example = dotted_example(np.random.default_rng(seed), skeleton, kind)
    plain, flipped = (crop_examples(write_prepared(folder, f"first{flip}", skeleton, [example], kind), "train", [0], side,
                                    geometry=as_arrays({**geometry, "flip": flip})) for flip in (False, True))
    joints = f"joints{kind}"
    mirrored = plain[joints][0] * [-1, 1, 1] if kind == "3d" else plain[joints][0] * [-1, 1] + [side - 1, 0]
    for name, joint in zip(skeleton.joint_names, flipped[joints][0], strict=True):
        np.testing.assert_allclose(joint, mirrored[skeleton.index(mirror_name(name))], rtol=1e-6, atol=2e-4)
    assert any(mirror_name(name) != name for name in skeleton.joint_names)
    assert np.abs(flipped["image"][0].astype(int) - plain["image"][0, :, ::-1]).max() <= 1

    # The mirrored crop becomes a record that shows it whole; it is mirrored again.
    hardly_lossy = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    picture = cv2.imencode(".jpg", flipped["image"][0, ..., ::-1], hardly_lossy)[1].tobytes()
    record = Example(picture, flipped["intrinsics"][0], np.eye(4, dtype=np.float32), np.float32([-0.5, -0.5, side, side]),
                     **{joints: flipped[joints][0]})
    twice = crop_examples(write_prepared(folder, "second", skeleton, [record], kind), "train", [0], side,
                          geometry={"flip": np.array([True])})
    difference = np.abs(twice["image"].astype(int) - plain["image"])
    assert difference.max() <= 6 and difference.mean() < 0.6
    np.testing.assert_allclose(twice["intrinsics"], plain["intrinsics"], rtol=1e-6)
    np.testing.assert_allclose(twice[joints], plain[joints], rtol=1e-6, atol=2e-3)


@pytest.mark.parametrize("crop_side", [600, 256, 90])  # decoded at full size, at a half, at an eighth
def test_mask_moves_with_the_picture(tmp_path, crop_side):
    """Of a white picture with a round mask, before a black background, the mask is seen: where the homography takes it."""
    rng, skeleton, center, radius = np.random.default_rng(2), load_skeleton("h36m_17"), np.array([1400.0, 1250.0]), 100
    mask = np.linalg.norm(pixel_grid(*LARGE_SIZE) - center, axis=-1) <= radius
    white = encode_jpeg(np.full((*mask.shape, 3), 255, np.uint8))
    example = dataclasses.replace(example_of(rng, white, skeleton, 4000.0, np.array([800, 650, 700, 850])),
                                  mask_rle=encode_mask(mask))
    black = Pictures((), np.zeros((1, crop_side, crop_side, 3), np.uint8))
    crop = crop_examples(write_prepared(tmp_path, "disc", skeleton, [example], "3d"), "train", [0], crop_side, pictures=black,
                         background=BackgroundChoice(np.array([True]), np.full((1, 4), 0.5)))["image"][0, ..., :1] / 255
    points = sources(reference_homography(np.float64(example.intrinsics), np.float64(example.bbox), crop_side), crop_side)
    scale = np.linalg.norm(points[0, 0] - points[0, -1]) / (crop_side - 1)
    expected = np.clip((radius - np.linalg.norm(points - center, axis=-1, keepdims=True)) / scale + 0.5, 0, 1)
    seen_at, expected_at = ((alpha * pixel_grid(crop_side, crop_side)).sum(axis=(0, 1)) / alpha.sum()
                            for alpha in (crop, expected))
    np.testing.assert_allclose(seen_at, expected_at, atol=0.03 if crop_side == 256 else 0.1)  # masks stay binary when reduced


composition = st.lists(st.integers(1, 6), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def many_datasets(tmp_path_factory):
    """Three with 3D and three with 2D labels."""
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("many")
    return [[write_prepared(folder, f"{kind}_{i}", skeleton, [dotted_example(rng, skeleton, kind) for _ in range(5 + i)], kind)
             for i in range(3)] for kind, skeleton in (("3d", "h36m_17"), ("2d", "mpii_16"))]


@check(12)
@given(counts_3d=composition, counts_2d=st.one_of(st.just([]), composition), step=st.integers(0, 10**9))
def test_the_workers_rows_together_are_the_batch(many_datasets, counts_3d, counts_2d, step):
    """For every number of workers that the rows can be shared by, however unevenly the data sets fall on them."""
    plan = BatchPlan(*(list(zip(datasets, counts, strict=False))
                       for datasets, counts in zip(many_datasets, (counts_3d, counts_2d), strict=True)), 32)
    whole = make_batch(plan, 1, step)
    for num_workers in range(1, plan.num_3d + 1):
        if plan.num_3d % num_workers or plan.num_2d % num_workers:
            continue
        shares = [make_batch(plan.share(worker, num_workers), 1, step) for worker in range(num_workers)]
        num_3d = plan.num_3d // num_workers
        for name, values in whole.items():
            assert all(len(share[name]) == len(values) // num_workers for share in shares)
            parts = [share[name] for share in shares]
            if name in ("image", "intrinsics"):
                parts = [share[name][:num_3d] for share in shares] + [share[name][num_3d:] for share in shares]
            np.testing.assert_array_equal(np.concatenate(parts), values)
