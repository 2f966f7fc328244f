import cv2
import keras
import numpy as np
import pytest

from posepile.geometry import camera
from posepile.models.pose_model import PoseModel
from posepile.prediction import predictor as module
from posepile.prediction.predictor import Predictor, load_model
from tests.posepile import small_model

INTRINSICS = np.array([[900, 0, 330], [0, 880, 235], [0, 0, 1.0]])
IMAGE = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
BOXES = np.array([[20, 30, 150, 300], [400, 100, 200, 180]])


@pytest.fixture(scope="module")
def predictor():
    """With weights that make the prediction depend on the image."""
    model = small_model.make_model()
    rng = np.random.default_rng(1)
    model.head.set_weights([rng.normal(scale=0.5, size=w.shape) for w in model.head.get_weights()])
    return Predictor(model, batch_size=4)


class _SeesDots(Predictor):
    """Instead of a network: finds the brightest spot of a crop, and puts all joints 4 m away on its ray."""

    def predict_crops(self, image, intrinsics):
        self.crops = image
        joints = []
        for crop, k in zip(image, intrinsics, strict=True):
            weight = crop.astype(float).sum(axis=2) ** 4
            y, x = (np.sum(weight * grid) / weight.sum() for grid in np.mgrid[:crop.shape[0], :crop.shape[1]])
            joints.append(np.linalg.inv(k) @ [x, y, 1] * 4000)
        return np.repeat(np.array(joints, np.float32)[:, None], self.skeleton.num_joints, axis=1)


@pytest.mark.parametrize("distortion", [None, np.zeros(5), np.array([-0.25, 0.08, 0.001, -0.002, 0])])
def test_joints_come_back_in_the_frame_of_the_image_camera(distortion):
    """A white dot at the image of a known point in space is found along the ray to that point."""
    points = np.array([[-900, -300, 3700], [1000, 150, 4100], [80, 900, 3900.0]])
    pixels = camera.project(points, INTRINSICS, distortion)
    predictor = _SeesDots(PoseModel("tiny", 96, small_model.ARMS))
    for point, pixel in zip(points, pixels, strict=True):
        image = np.zeros((480, 640, 3), np.uint8)
        cv2.circle(image, np.rint(pixel * 16).astype(int).tolist(), 3 << 4, (255, 255, 255), -1, cv2.LINE_AA, 4)
        box = [pixel[0] - 45, pixel[1] - 20, 100, 80]  # the dot is off the centre of the box
        joints3d = predictor.predict(image, [box], INTRINSICS, distortion)
        assert joints3d.shape == (1, 3, 3)
        cosine = joints3d[0, 0] @ point / np.linalg.norm(joints3d[0, 0]) / np.linalg.norm(point)
        assert np.degrees(np.arccos(min(cosine, 1.0))) < 0.06  # a pixel is 0.064 degrees wide


def test_equals_the_network_on_crops_cut_by_hand(predictor, monkeypatch):
    seen = []
    original = predictor.predict_crops
    monkeypatch.setattr(predictor, "predict_crops", lambda *args: seen.append(args) or original(*args))
    joints3d = predictor.predict(IMAGE, BOXES, INTRINSICS)
    crops, crop_intrinsics = seen[0]
    for i, box in enumerate(BOXES):
        intrinsics, rotation = camera.crop_cameras(INTRINSICS[None], box[None], 32)
        reduction = 2 ** int(np.log2(INTRINSICS[0, 0] / intrinsics[0, 0, 0]))
        assert reduction in (4, 8)
        blurred = cv2.blur(IMAGE, (reduction, reduction), anchor=(0, 0))[::reduction, ::reduction]
        # pixel i of the reduced image is at i reduction + (reduction - 1) / 2 of the full one
        enlarge = np.array([[reduction, 0, (reduction - 1) / 2], [0, reduction, (reduction - 1) / 2], [0, 0, 1]])
        homography = camera.crop_homography(INTRINSICS[None], intrinsics, rotation)[0] @ enlarge
        crop = cv2.warpPerspective(blurred, homography, (32, 32))
        assert np.abs(crops[i].astype(int) - crop).max() <= 2  # rounded twice
        np.testing.assert_allclose(crop_intrinsics[i], intrinsics[0])
        expected = np.asarray(predictor.model({"image": crops[i:i + 1], "intrinsics": np.float32(intrinsics)}))[0]
        np.testing.assert_allclose(joints3d[i], expected @ rotation[0], rtol=1e-3, atol=0.1)


def test_large_people_are_averaged_not_subsampled():
    """A fine checkerboard shrinks to gray."""
    board = np.uint8(255 * (np.indices((512, 512)).sum(axis=0) % 2))
    image = np.repeat(board[..., None], 3, axis=2)
    predictor = _SeesDots(PoseModel("tiny", 32, small_model.ARMS))
    predictor.predict(image, [[100.3, 90.7, 300, 300]], INTRINSICS)
    assert np.abs(predictor.crops[0].astype(int) - 127).max() <= 2


def test_box_many_times_larger_than_the_image(predictor):
    assert np.isfinite(predictor.predict(IMAGE[:3, :5], [[-900, -900, 2000, 2000]], INTRINSICS)).all()


def test_batch_size_and_company_do_not_matter(predictor):
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    intrinsics = np.repeat(np.array([[[200, 0, 15.5], [0, 200, 15.5], [0, 0, 1]]]), 6, axis=0)
    together = predictor.predict_crops(images, intrinsics)  # 4 + 2, padded
    assert together.shape == (6, 7, 3)
    assert together.dtype == np.float32
    for batch_size in (1, 6):
        again = Predictor(predictor.model, batch_size).predict_crops(images, intrinsics)
        np.testing.assert_allclose(again, together, rtol=1e-4, atol=0.1)
    assert np.abs(together[0] - together[1]).max() > 1


def test_one_format_of_the_model(predictor):
    everything = predictor.predict(IMAGE, BOXES, INTRINSICS)
    legs = predictor.predict(IMAGE, BOXES, INTRINSICS, skeleton=small_model.LEGS)
    np.testing.assert_array_equal(legs, everything[:, 3:7])  # the merged list has the three joints of ARMS first
    other = small_model.skeleton_from_dict({"name": "hands", "joints": ["thumb"]})
    with pytest.raises(ValueError, match="thumb_hands"):
        predictor.predict(IMAGE, BOXES, INTRINSICS, skeleton=other)


def test_an_added_format(predictor, tmp_path):
    """Its joints are combinations of the model's, which stay as they were."""
    weights = np.float32([[0.25, 0.75, 0, 0, 0, 0, 0], [0, 0, 0, 0.5, -0.5, 0, 1]])
    np.savez(tmp_path / "cuffs.npz", weights=weights, joint_names=np.array(small_model.MERGED.joint_names),
             skeleton='{"name": "cuffs", "joints": ["a", "b"]}')
    extended = Predictor(predictor.model, batch_size=4, extra_formats=[tmp_path / "cuffs.npz"])
    expected = predictor.predict(IMAGE, BOXES, INTRINSICS)
    everything = extended.predict(IMAGE, BOXES, INTRINSICS)
    np.testing.assert_array_equal(everything[:, :7], expected)
    cuffs = extended.predict(IMAGE, BOXES, INTRINSICS, skeleton="cuffs")
    np.testing.assert_array_equal(cuffs, everything[:, 7:])
    np.testing.assert_allclose(cuffs[:, 0], 0.25 * expected[:, 0] + 0.75 * expected[:, 1], rtol=1e-4, atol=0.01)
    np.testing.assert_allclose(cuffs[:, 1], (expected[:, 3] - expected[:, 4]) / 2 + expected[:, 6], rtol=1e-4, atol=0.01)
    assert extended.predict(IMAGE, [], skeleton="cuffs").shape == (0, 2, 3)
    with pytest.raises(ValueError, match="does not predict the format 'cufs'; its formats: arms, legs, cuffs"):
        extended.predict(IMAGE, BOXES, skeleton="cufs")


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4)), np.zeros((0, 5))])
def test_no_people(predictor, boxes):
    assert predictor.predict(IMAGE, boxes, INTRINSICS).shape == (0, 7, 3)
    assert predictor.predict(IMAGE, boxes, INTRINSICS, skeleton=small_model.ARMS).shape == (0, 3, 3)
    assert predictor.predict_crops(np.zeros((0, 32, 32, 3), np.uint8), np.zeros((0, 3, 3))).shape == (0, 7, 3)


@pytest.mark.parametrize(("image", "boxes", "message"), [
    (IMAGE[..., 0], BOXES, r"image must be \[height, width, 3\] uint8 RGB, got uint8 \[480, 640\]"),
    (IMAGE / 255, BOXES, "got float64"),
    (np.zeros((480, 640, 4), np.uint8), BOXES, r"got uint8 \[480, 640, 4\]"),
    (IMAGE, np.ones((4, 5)), r"boxes must be \[n, 4\] .* got shape \[4, 5\]"),  # as from a detector, with a score
    (IMAGE, np.ones(4), r"got shape \[4\]"),
    (IMAGE, [[10, 10, 0, 50]], "positive width and height"),
    (IMAGE, [[10, np.nan, 20, 50]], "finite numbers"),
])
def test_wrong_input(predictor, image, boxes, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(image, boxes, INTRINSICS)


def test_unknown_camera_is_guessed_from_the_largest_person(predictor):
    focal = 300 / 2 / np.tan(np.radians(4))  # 300 px seen under 8 degrees
    guess = np.array([[focal, 0, 319.5], [0, focal, 239.5], [0, 0, 1]])
    np.testing.assert_allclose(predictor.predict(IMAGE, BOXES), predictor.predict(IMAGE, BOXES, guess), rtol=1e-5)


def test_loads_what_was_saved(predictor, tmp_path):
    predictor.model.save(tmp_path / "model.keras")
    for source in (tmp_path / "model.keras", str(tmp_path / "model.keras")):
        loaded = Predictor(source, batch_size=4)
        np.testing.assert_allclose(loaded.predict(IMAGE, BOXES), predictor.predict(IMAGE, BOXES), rtol=1e-5, atol=0.01)
        assert loaded.skeleton == small_model.MERGED


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model file .*missing\.keras"):
        load_model(tmp_path / "missing.keras")
    (tmp_path / "torn.keras").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match=r"torn\.keras cannot be loaded as a model"):
        load_model(tmp_path / "torn.keras")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=r"other\.keras holds a Sequential, not a pose model"):
        load_model(tmp_path / "other.keras")


def test_no_xla_for_tensorflow_on_a_cpu(monkeypatch):
    devices = {"gpu": []}
    monkeypatch.setattr(module.keras.distribution, "list_devices", lambda kind: devices.get(kind, []))
    monkeypatch.setattr(module.keras.backend, "backend", lambda: "tensorflow")
    assert module.default_jit_compile() is False
    devices["gpu"] = ["gpu:0"]
    assert module.default_jit_compile() == "auto"
    monkeypatch.setattr(module.keras.backend, "backend", lambda: "jax")
    devices["gpu"] = []
    assert module.default_jit_compile() == "auto"
