import dataclasses
import tracemalloc

import cv2
import numpy as np
import pytest
from tqdm import tqdm

from posepile.data import crops, records
from posepile.data.crops import crop_examples
from posepile.geometry import camera
from posepile.models.pose_model import PoseModel
from posepile.prediction.predictor import Predictor
from posepile.prediction.test_time_augmentation import PLAIN, make_views
from posepile.training.pseudo_labels import predict_parts, predict_poses
from tests.posepile import small_model
from tests.posepile.data.prepared import dotted_example, write_prepared

INTRINSICS = np.array([[900, 0, 330], [0, 880, 235], [0, 0, 1.0]])
VIEWS = {"plain": PLAIN, "flip": make_views(flip_aug=True), "2": make_views(2), "5": make_views(5), "40": make_views(40)}


class _KnowsTheTruth:
    """Answers with the labels in the frames of the views, which it knows to be shown in turn, off by `offset` there."""

    skeleton = small_model.ARMS

    class model:
        crop_side = 32

    def __init__(self, dataset, views, offset=0.0, batch_size=8):
        rows = dataset.num_examples("train"), len(views)
        geometry = {name: np.tile(getattr(views, name), rows[0]) for name in ("roll", "zoom", "flip")}
        self.truth = crop_examples(dataset, "train", np.repeat(np.arange(rows[0]), rows[1]), 32, geometry=geometry)
        self.offset, self.batch_size, self.seen = offset, batch_size, []

    def predict_crops(self, image, intrinsics):
        start = sum(map(len, self.seen))
        self.seen.append(image)
        np.testing.assert_array_equal(intrinsics, self.truth["intrinsics"][start:start + len(image)])
        return self.truth["joints3d"][start:start + len(image)] + np.float32(self.offset)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """6 people off the middle of their images, labelled as ARMS: neck, left_wrist, right_wrist."""
    rng = np.random.default_rng(4)
    examples = [dotted_example(rng, small_model.ARMS, "3d") for _ in range(6)]
    return write_prepared(tmp_path_factory.mktemp("views"), "arms", small_model.ARMS, examples, "3d")


def plain_truth(dataset):
    return crop_examples(dataset, "train", range(dataset.num_examples("train")), 32)["joints3d"]


def predict(dataset, views, offset=0.0, **options):
    predictor = _KnowsTheTruth(dataset, views, offset, **options)
    return predict_poses(predictor, dataset, "train", np.arange(dataset.num_examples("train")), views=views)


# --------------------------------------------------------------------------------------------------------------- views


def test_five_views_by_hand():
    views = make_views(5)
    np.testing.assert_allclose(np.degrees(views.roll), [-20, -10, 0, 10, 20], atol=1e-12)
    np.testing.assert_allclose(views.zoom, [0.84, 0.92, 1, 1.04, 1.08])
    np.testing.assert_allclose(views.gamma, [0.68, 0.84, 1, 0.84, 0.68])
    assert views.flip.tolist() == [False, True, False, True, False]
    assert views.stamp == {"num_aug": 5, "flip": False}


def test_mirrored_crop_alone():
    views = make_views(flip_aug=True)
    assert (views.roll.tolist(), views.zoom.tolist(), views.gamma.tolist()) == ([0, 0], [1, 1], [1, 1])
    assert views.flip.tolist() == [False, True]
    assert views.stamp == {"num_aug": 2, "flip": True}


@pytest.mark.parametrize("num_aug", [1, 2, 3, 4, 6, 7, 49, 1000])
def test_views_lie_evenly_on_both_sides_of_the_plain_crop(num_aug):
    views = make_views(np.int64(num_aug))
    assert len(views) == num_aug
    np.testing.assert_allclose(views.roll, -views.roll[::-1], atol=1e-12)
    np.testing.assert_allclose(views.gamma, views.gamma[::-1])
    np.testing.assert_allclose(np.diff(views.roll), np.radians(50 / num_aug))
    assert np.degrees(abs(views.roll)).max() == pytest.approx(25 * (1 - 1 / num_aug))
    assert (views.zoom > 0.8).all() and (views.zoom < 1.1).all() and (np.diff(views.zoom) > 0).all()
    assert (views.gamma > 0.6).all() and (views.gamma <= 1).all()
    assert (np.diff(views.flip.astype(int)) != 0).all()
    if num_aug % 2:
        middle = num_aug // 2
        assert (views.roll[middle], views.zoom[middle], views.gamma[middle], views.flip[middle]) == (0, 1, 1, False)


@pytest.mark.parametrize("num_aug", [0, -3, 2.0, "5", None])
def test_number_of_views_that_makes_no_sense(num_aug):
    with pytest.raises(ValueError, match=r"num_aug must be a whole number from 1 on.*got"):
        make_views(num_aug)


def test_mirrored_crop_alone_is_no_addition():
    with pytest.raises(ValueError, match=r"leave out num_aug, which is 5"):
        make_views(5, flip_aug=True)


def test_batches_of_views():
    batches = [(person.tolist(), view.tolist()) for person, view in make_views(3).batches(2, 4)]
    assert batches == [([0, 0, 0, 1], [0, 1, 2, 0]), ([1, 1], [1, 2])]
    assert list(make_views(3).batches(0, 4)) == []
    person, view = next(make_views(2_000_000).batches(10**9, 64))  # nothing as long as all batches is made
    assert (person.max(), view.max()) == (0, 63)


def test_gamma_by_hand():
    """255 (64 / 255) ** 0.68 = 99.66, 255 (10 / 255) ** 0.84 = 16.79."""
    images = np.stack([np.full((2, 2, 3), value, np.uint8) for value in (64, 10, 77)])
    images[:, 0, 0] = 0, 255, 64
    make_views(5).adjust_brightness(images, np.array([4, 1, 2]))
    assert images[0].reshape(-1, 3).tolist() == [[0, 255, 100]] + 3 * [[100] * 3]
    assert images[1, 1, 1].tolist() == [17] * 3
    assert images[2].reshape(-1, 3).tolist() == [[0, 255, 64]] + 3 * [[77] * 3]


# ------------------------------------------------------------------------------------------------------ prepared images


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_perfect_predictions_of_all_views_are_the_same(views, batch_size, dataset):
    np.testing.assert_allclose(predict(dataset, views, batch_size=batch_size), plain_truth(dataset), atol=0.005)


def test_plain_predictions_stay_bitwise_as_they_are(dataset):
    np.testing.assert_array_equal(predict(dataset, PLAIN), plain_truth(dataset))


def test_mean_over_plain_and_mirrored_crop_by_hand(dataset):
    """What is to the right of the mirrored crop is to the left; what looks like a left wrist there is the right one."""
    errors = predict(dataset, VIEWS["flip"], [[30, 7, 0], [30, 7, 40], [30, 7, 0]]) - plain_truth(dataset)
    np.testing.assert_allclose(errors, np.broadcast_to([[0, 7, 0], [0, 7, 20], [0, 7, 20]], (6, 3, 3)), atol=0.005)


def test_mean_over_rolled_crops_by_hand(dataset):
    """The first of two views is turned anticlockwise by 12.5 degrees and then mirrored: its right was left and up. The second
    is turned clockwise: its right was right and up."""
    errors = predict(dataset, VIEWS["2"], [30, 0, 0]) - plain_truth(dataset)
    np.testing.assert_allclose(errors, np.broadcast_to([0, -30 * np.sin(np.radians(12.5)), 0], (6, 3, 3)), atol=0.005)


def test_predictor_is_shown_the_views(dataset):
    views, predictor = VIEWS["5"], _KnowsTheTruth(dataset, VIEWS["5"])
    predict_poses(predictor, dataset, "train", np.arange(6), views=views)
    seen = np.concatenate(predictor.seen)
    assert len(seen) == 30
    for i in range(30):
        geometry = {name: getattr(views, name)[i % 5:i % 5 + 1] for name in ("roll", "zoom", "flip")}
        crop = crop_examples(dataset, "train", [i // 5], 32, geometry=geometry)["image"][0]
        expected = 255 * (crop / 255) ** views.gamma[i % 5]
        np.testing.assert_allclose(seen[i], expected, atol=0.501)


def test_image_is_decoded_once_for_all_views(dataset, monkeypatch):
    decoded = []
    decode = records.Example.decode_image
    monkeypatch.setattr(records.Example, "decode_image",
                        lambda example, reduction: decoded.append(reduction) or decode(example, reduction))
    monkeypatch.setattr(crops, "_decoding_reductions", lambda intrinsics, _: np.ones(len(intrinsics), np.int64))
    predictor = _KnowsTheTruth(dataset, VIEWS["5"], batch_size=30)
    assert len(decoded) == 6
    predict_poses(predictor, dataset, "train", np.arange(6), views=VIEWS["5"])
    assert len(decoded) == 12


def test_repeated_examples_of_other_reductions_are_decoded_anew(dataset):
    """Zoomed out, the image is decoded at half size."""
    zoom = np.array([1, 0.25, 1, 0.25])
    geometry = {"roll": np.zeros(4), "zoom": zoom, "flip": np.zeros(4, bool)}
    together = crop_examples(dataset, "train", [3] * 4, 32, geometry=geometry)["image"]
    for i in range(4):
        alone = crop_examples(dataset, "train", [3], 32, geometry={name: values[i:i + 1] for name, values in geometry.items()})
        np.testing.assert_array_equal(together[i], alone["image"][0])


def test_memory_does_not_grow_with_the_number_of_views(dataset):
    """6 MB of crops, of which few are there at a time."""
    views = make_views(2000)

    class Black:
        skeleton, batch_size, model, largest = small_model.ARMS, 8, _KnowsTheTruth.model, 0

        def predict_crops(self, image, intrinsics):
            self.largest = max(self.largest, len(image))
            return np.full((len(image), 3, 3), 1000, np.float32)

    predictor = Black()
    tracemalloc.start()
    poses = predict_poses(predictor, dataset, "train", np.array([2]), views=views)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert predictor.largest == 8 and peak < 3e6
    np.testing.assert_allclose(poses[0, :, 2], 1000, atol=0.01)  # the sums are float32


def test_views_of_examples_that_cannot_be_used(dataset, tmp_path):
    examples = [dataset.read("train", i) for i in range(4)]
    examples[1] = dataclasses.replace(examples[1], image=b"nothing")
    broken = write_prepared(tmp_path, "broken", small_model.ARMS, examples, "3d")
    views, predictor = VIEWS["2"], _KnowsTheTruth(dataset, VIEWS["2"], batch_size=3)
    for truth in (predictor.truth["joints3d"], predictor.truth["intrinsics"]):
        truth[2:6] = truth[4:8].copy()  # after 0 it is shown 2 and 3
    with tqdm(disable=True) as progress:
        (poses, is_used), = predict_parts(predictor, broken, "train", [np.arange(4)], progress, skip_bad=True, views=views)
    assert is_used.tolist() == [True, False, True, True] and np.isnan(poses[1]).all()
    np.testing.assert_allclose(poses[is_used], plain_truth(dataset)[[0, 2, 3]], atol=0.005)


# ------------------------------------------------------------------------------------------------------- users' images


class _SeesHands(Predictor):
    """Instead of a network: a green dot is the neck, of two blue dots the one further right is the left wrist, as of someone
    who faces the camera. Each is put 4 m away on its ray."""

    def predict_crops(self, image, intrinsics):
        poses = []
        for crop, k in zip(image.astype(float), intrinsics, strict=True):
            _, _, _, centers = cv2.connectedComponentsWithStats(np.uint8(crop[..., 2] > 60))
            (x0, _), (x1, _) = sorted(map(tuple, centers[1:]))
            left_half = np.arange(crop.shape[1]) < (x0 + x1) / 2
            pixels = [_center(weight) for weight in (crop[..., 1], crop[..., 2] * ~left_half, crop[..., 2] * left_half)]
            rays = np.concatenate([pixels, np.ones((3, 1))], axis=1) @ np.linalg.inv(k).T
            poses.append(4000 * rays / np.linalg.norm(rays, axis=1, keepdims=True))
        return np.float32(poses)


def _center(weight):
    y, x = np.mgrid[:weight.shape[0], :weight.shape[1]]
    return np.sum(weight * x) / weight.sum(), np.sum(weight * y) / weight.sum()


@pytest.mark.parametrize("views", [{}, {"flip_aug": True}, {"num_aug": 2}, {"num_aug": 7}])
@pytest.mark.parametrize("distortion", [None, np.array([-0.25, 0.08, 0.001, -0.002, 0])])
def test_joints_are_found_where_they_are_whatever_the_views(views, distortion):
    """Neck, left and right wrist of two people 4 m away, painted as dots."""
    people = np.array([[[-900, -300, 3700], [-700, -100, 3800], [-1100, -50, 3900]],
                       [[800, 500, 3900], [1050, 700, 3700], [650, 640, 3800.0]]])
    people *= 4000 / np.linalg.norm(people, axis=-1, keepdims=True)
    image, boxes = np.zeros((480, 640, 3), np.uint8), []
    for pixels in (camera.project(person, INTRINSICS, distortion) for person in people):
        for pixel, color in zip(pixels, [(0, 255, 0), (0, 0, 255), (0, 0, 255)], strict=True):
            cv2.circle(image, np.rint(pixel * 16).astype(int).tolist(), 3 << 4, color, -1, cv2.LINE_AA, 4)
        boxes.append([*(pixels.min(axis=0) - 30), *(np.ptp(pixels, axis=0) + 60)])
    predictor = _SeesHands(PoseModel("tiny", 160, small_model.ARMS), batch_size=3)
    joints3d = predictor.predict(image, boxes, INTRINSICS, distortion, **views)
    assert np.linalg.norm(joints3d - people, axis=-1).max() < 3  # a pixel is 4.5 mm wide


def test_network_sees_the_mirrored_image():
    """As if the whole picture was mirrored, and its camera, and what is found there then mirrored back."""
    model = small_model.make_model()
    rng = np.random.default_rng(1)
    model.head.set_weights([rng.normal(scale=0.5, size=w.shape) for w in model.head.get_weights()])
    predictor = Predictor(model, batch_size=4)
    image = cv2.resize(rng.integers(0, 256, (30, 40, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    boxes = np.array([[20.5, 30, 150, 300], [400, 100, 200, 180]])
    mirrored_boxes = boxes * [-1, 1, 1, 1] + [639, 0, 0, 0] - boxes[:, 2:3] * [1, 0, 0, 0]
    mirrored_intrinsics = INTRINSICS * [[1, 1, -1], [1, 1, 1], [1, 1, 1]] + [[0, 0, 639], [0, 0, 0], [0, 0, 0]]
    plain = predictor.predict(image, boxes, INTRINSICS)
    mirrored = predictor.predict(np.ascontiguousarray(image[:, ::-1]), mirrored_boxes, mirrored_intrinsics)
    mirrored = mirrored[:, list(small_model.MERGED.mirror)] * [-1, 1, 1]
    assert np.abs(plain - mirrored).max() > 30
    both = predictor.predict(image, boxes, INTRINSICS, flip_aug=True)
    np.testing.assert_allclose(both, (plain + mirrored) / 2, atol=np.abs(plain - mirrored).max() / 50)
    one_format = predictor.predict(image, boxes, INTRINSICS, skeleton=small_model.LEGS, flip_aug=True)
    np.testing.assert_array_equal(one_format, both[:, 3:])


def test_brightness_of_users_images_by_hand(monkeypatch):
    """255 (64 / 255) ** gamma for gamma 0.68, 0.84, 1, 0.84, 0.68."""
    predictor, seen = Predictor(small_model.make_model()), []
    original = predictor.predict_crops
    monkeypatch.setattr(predictor, "predict_crops", lambda *args: seen.extend(args[0]) or original(*args))
    predictor.predict(np.full((480, 640, 3), 64, np.uint8), [[200, 100, 150, 300]], INTRINSICS, num_aug=5)
    assert [crop[16, 16].tolist() for crop in seen] == [[value] * 3 for value in (100, 80, 64, 80, 100)]


def test_views_of_users_images_are_checked():
    predictor = Predictor(small_model.make_model())
    image = np.zeros((48, 64, 3), np.uint8)
    for boxes in ([], [[3, 3, 30, 30]]):
        with pytest.raises(ValueError, match="num_aug must be a whole number"):
            predictor.predict(image, boxes, INTRINSICS, num_aug=0)
    assert predictor.predict(image, [], INTRINSICS, num_aug=5).shape == (0, 7, 3)
