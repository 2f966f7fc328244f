import cv2
import numpy as np
import pytest

from datasets.cropping import crop_example, load_image, resample
from datasets.raw_example import RawExample
from posepile.data.records import decode_mask
from posepile.geometry.camera import Camera, project, transform

LENS = np.array([-0.25, 0.08, 0.002, -0.001, 0.01])
# A person about 1.7 m tall, feet at the origin, world z up, mm.
BODY = np.array([[0, 0, 1700], [0, 0, 1450], [200, 0, 1400], [-200, 0, 1400], [350, 50, 1100], [-400, 100, 1250],
                 [0, 0, 950], [120, 80, 500], [-120, -60, 500], [130, 0, 60], [-140, -50, 60]], np.float64)


def look_at_person(roll_degrees=0.0, pan_degrees=9.0, focal=1100.0, size=(1280, 960), distortion=LENS):
    """A camera at chest height, in front of the person, turned away by `pan_degrees` and rolled; with `world_up`."""
    pan, roll = np.deg2rad([pan_degrees, roll_degrees])
    level = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # x right, y down (-z of the world), z along the world's y
    turn = np.array([[np.cos(pan), 0, -np.sin(pan)], [0, 1, 0], [np.sin(pan), 0, np.cos(pan)]])
    tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    rotation = tilt @ turn @ level
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = rotation
    world_to_camera[:3, 3] = -rotation @ np.array([150.0, -4000.0, 1000.0])
    intrinsics = np.array([[focal, 0, size[0] / 2 - 7], [0, 1.02 * focal, size[1] / 2 + 5], [0, 0, 1]])
    return Camera(intrinsics, world_to_camera, distortion, np.array([0.0, 0.0, 1.0]))


def opencv_projection(joints3d_world, camera):
    """[num_joints, 2] px by OpenCV: independent of our projection."""
    rotation, _ = cv2.Rodrigues(camera.world_to_camera[:3, :3])
    distortion = np.zeros(5) if camera.distortion is None else camera.distortion
    translation = camera.world_to_camera[:3, 3]
    points, _ = cv2.projectPoints(joints3d_world, rotation, translation, camera.intrinsics, distortion)
    return points[:, 0]


def draw_spots(points, size, sigma):
    """A dark image with a round spot of light at every point."""
    y, x = np.mgrid[:size[1], :size[0]]
    light = np.full((size[1], size[0]), 0.02)
    for point in points:
        light += 0.9 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * sigma ** 2))
    code = np.uint8(np.round(255 * np.minimum(light, 1) ** (1 / 2.2)))
    return np.repeat(code[..., None], 3, axis=2)


def spot_center(image, guess, radius):
    """The centre of light near a point."""
    y, x = np.mgrid[:image.shape[0], :image.shape[1]]
    light = (image.mean(axis=2) / 255) ** 2.2 - 0.1
    light[(np.hypot(x - guess[0], y - guess[1]) > radius) | (light < 0)] = 0
    return np.array([(x * light).sum(), (y * light).sum()]) / light.sum()


def joints_bbox(points, margin=30):
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    return np.concatenate([low, high - low])


@pytest.mark.parametrize("size, camera_options, sigma", [
    pytest.param((1280, 960), {}, 3.0, id="distorted"),
    pytest.param((1280, 960), {"distortion": None}, 3.0, id="undistorted"),
    pytest.param((1280, 960), {"roll_degrees": 35}, 3.0, id="rolled"),
    pytest.param((2560, 1920), {"focal": 2200.0}, 7.0, id="distorted, reduced 2.5 times"),
    pytest.param((2560, 1920), {"focal": 2200.0, "distortion": None}, 7.0, id="undistorted, reduced 2.5 times"),
    pytest.param((640, 480), {"focal": 300.0, "pan_degrees": 25}, 2.5, id="distorted, enlarged"),
    pytest.param((640, 480), {"focal": 300.0, "distortion": np.array([0.1, -0.05, 0, 0, 0.02, 0.03, 0, 0])}, 2.5,
                 id="rational lens"),
])
def test_what_the_source_shows_at_a_joint_is_in_the_crop_where_the_joint_projects(size, camera_options, sigma):
    camera = look_at_person(size=size, **camera_options)
    joints3d_world = BODY[[0, 4, 5, 6, 9]]
    source_points = opencv_projection(joints3d_world, camera)
    example = crop_example(RawExample(draw_spots(source_points, size, sigma), joints_bbox(source_points), camera,
                                      joints3d_world, source_points))
    crop = example.decode_image()
    projected = project(example.joints3d, example.intrinsics)
    for point in projected:
        assert np.linalg.norm(spot_center(crop, point, 8) - point) < 0.2
    np.testing.assert_allclose(example.joints2d, projected, atol=0.02)  # 2D labels take the way through the lens
    np.testing.assert_allclose(transform(joints3d_world, example.world_to_camera), example.joints3d, atol=0.05)


def test_rolled_camera_gives_an_upright_crop():
    size = (960, 1280)
    camera = look_at_person(roll_degrees=90, size=size)
    points = opencv_projection(BODY, camera)
    bbox = joints_bbox(points)
    assert bbox[2] > 1.5 * bbox[3]  # lying in the source
    example = crop_example(RawExample(np.zeros((size[1], size[0], 3), np.uint8), bbox, camera, BODY))
    projected = project(example.joints3d, example.intrinsics)
    head, feet = projected[0], projected[9:].mean(axis=0)
    assert feet[1] - head[1] > 20 * abs(feet[0] - head[0])
    np.testing.assert_allclose(example.bbox[3], 384, atol=0.01)
    assert example.bbox[3] / example.bbox[2] == pytest.approx(bbox[2] / bbox[3], rel=0.05)


def facing_camera(center, focal=1000.0):
    return Camera(np.array([[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1]]))


def test_crop_extent_by_hand():
    # Box 200 x 400 px on the optical axis: the scale is 384/400, the box 192 x 384, the side of the square
    # (384 cos 30 + 192 sin 30) 1.1 / 0.85 / 0.85 = 652.47 px, so 653 pixels with the principal point at pixel 326.
    raw = RawExample(np.zeros((1500, 1500, 3), np.uint8), np.array([650, 550, 200, 400]), facing_camera((750, 750)),
                     joints2d=np.array([[750.0, 750.0], [850.0, 950.0]]))
    example = crop_example(raw)
    assert example.decode_image().shape == (653, 653, 3)
    np.testing.assert_allclose(example.intrinsics, [[960, 0, 326], [0, 960, 326], [0, 0, 1]], rtol=1e-6)
    np.testing.assert_allclose(example.bbox, [326 - 96, 326 - 192, 192, 384], rtol=1e-6)
    np.testing.assert_allclose(example.joints2d, [[326, 326], [326 + 96, 326 + 192]], atol=1e-3)
    np.testing.assert_array_equal(example.world_to_camera, np.eye(4))


def test_crop_ends_where_the_image_ends():
    # The left edge of the image, -0.5, is 100.5 px left of the box centre, 96.48 px in the crop: pixels from -96 on.
    # The bottom edge, 1199.5, is 249.5 px below, 239.52 px in the crop: pixels up to 239.
    raw = RawExample(np.full((1200, 1500, 3), 255, np.uint8), np.array([0, 750, 200, 400]), facing_camera((100, 950)),
                     joints2d=np.array([[100.0, 950.0]]))
    example = crop_example(raw)
    image = example.decode_image()
    assert image.shape == (326 + 1 + 239, 96 + 1 + 326, 3)
    np.testing.assert_allclose(example.intrinsics[:2, 2], [96, 326])
    assert image.min() > 220  # no black border; the outermost pixels may lie half outside


def test_small_persons_are_enlarged_at_most_1_2_times():
    raw = RawExample(np.zeros((800, 800, 3), np.uint8), np.array([350, 300, 100, 200]), facing_camera((400, 400)),
                     joints2d=np.array([[400.0, 400.0]]))
    example = crop_example(raw)
    np.testing.assert_allclose(example.bbox[2:], [120, 240], rtol=1e-6)
    assert crop_example(raw, person_side=100).bbox[3] == pytest.approx(100)


def test_image_without_calibration_is_only_cut_and_scaled():
    joints2d = np.array([[30.0, 140.0], [np.nan, np.nan], [80.0, 300.0]])
    image = np.zeros((480, 640, 3), np.uint8)
    example = crop_example(RawExample(image, np.array([10, 100, 100, 320]), joints2d=joints2d))
    assert 2 * np.rad2deg(np.arctan(384 / 2 / example.intrinsics[0, 0])) == pytest.approx(8)  # scale 1.2: 320 -> 384 px
    center = example.intrinsics[:2, 2]
    np.testing.assert_allclose(example.joints2d[[0, 2]], center + 1.2 * (joints2d[[0, 2]] - [60, 260]), atol=1e-3)
    assert np.isnan(example.joints2d[1]).all()
    np.testing.assert_array_equal(example.world_to_camera, np.eye(4))
    assert example.joints3d is None and example.mask_rle is None


def test_shrinking_averages_light_not_code_values():
    image = np.zeros((1600, 1600, 3), np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 255  # a fine checkerboard: half the light, code 255 x 0.5^(1/2.2) = 186
    example = crop_example(RawExample(image, np.array([100, 100, 1400, 1400]), joints2d=np.array([[800.0, 800.0]])))
    inner = example.decode_image()[20:-20, 20:-20]
    assert abs(inner.mean() - 186) < 1 and inner.min() > 175 and inner.max() < 197  # code values would average to 128


def test_mask_follows_the_image():
    size = (1280, 960)
    camera = look_at_person(size=size)
    points = opencv_projection(BODY, camera)
    image = np.zeros((size[1], size[0], 3), np.uint8)
    cv2.fillConvexPoly(image, cv2.convexHull(np.int32(points)), (255, 255, 255))
    example = crop_example(RawExample(image, joints_bbox(points), camera, BODY, mask=image[..., 0] > 127))
    crop = example.decode_image()
    mask = decode_mask(example.mask_rle, *crop.shape[:2])
    shown = (crop[..., 0] / 255.0) ** 2.2 > 0.5
    assert (mask & shown).sum() / (mask | shown).sum() > 0.98 and mask.sum() > 10_000


def test_no_ghost_of_the_image_where_the_lens_model_folds_back():
    # With k1 = -0.4 the distortion turns back at radius 0.913; rays beyond would show the image again, mirrored.
    intrinsics = np.array([[300.0, 0, 319.5], [0, 300.0, 239.5], [0, 0, 1]])
    camera = Camera(intrinsics, distortion=np.array([-0.4, 0, 0, 0, 0.0]))
    image = np.full((480, 640, 3), 255, np.uint8)
    example = crop_example(RawExample(image, np.array([380, 160, 100, 160]), camera, joints2d=np.array([[430.0, 240]])))
    crop = example.decode_image()
    y, x = np.mgrid[:crop.shape[0], :crop.shape[1]]
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(example.intrinsics).T
    rays = rays @ example.world_to_camera[:3, :3]
    radius = np.hypot(rays[..., 0], rays[..., 1]) / rays[..., 2]
    assert (radius > 0.93).any() and crop[(radius > 0.93) | (rays[..., 2] <= 0)].max() < 60  # JPEG ringing


def test_crop_that_looks_past_its_camera_shows_what_is_before_it():
    """A crop of 143 degrees around a direction 70 degrees off the axis; the rays of its right side go backwards."""
    image = np.full((401, 401, 3), 255, np.uint8)
    camera = Camera(np.array([[20.0, 0, 200], [0, 20, 200], [0, 0, 1]]))
    crop_intrinsics = np.array([[20.0, 0, 60], [0, 20, 60], [0, 0, 1]])
    rotation = cv2.Rodrigues(np.array([0, -np.deg2rad(70), 0]))[0]
    light = resample(image, camera, crop_intrinsics, rotation, (121, 121))
    y, x = np.mgrid[:121, :121]
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(crop_intrinsics).T @ rotation
    seen = np.abs(20 * rays[..., :2]) < 195 * rays[..., 2:]
    is_seen = seen.all(axis=-1)
    assert 0.3 < is_seen.mean() < 0.8 and (rays[..., 2] < 0).any() and (light[is_seen] == 65535).all()


def person_raw(**changes):
    camera = look_at_person(size=(640, 480), focal=500.0)
    points = opencv_projection(BODY, camera)
    fields = {"image": np.zeros((480, 640, 3), np.uint8), "bbox": joints_bbox(points), "camera": camera,
              "joints3d_world": BODY}
    return RawExample(**{**fields, **changes})


def inverted(camera):
    return Camera(camera.intrinsics, np.linalg.inv(camera.world_to_camera), camera.distortion)


@pytest.mark.parametrize("changes, message", [
    ({"joints3d_world": BODY / 1000}, "looks like metres"),
    ({"joints3d_world": BODY / 40}, "looks like centimetres"),
    ({"joints3d_world": BODY * 100}, "expected millimetres"),
    ({"joints3d_world": BODY[:, :2]}, r"joints3d_world has shape \[11, 2\]"),
    ({"joints3d_world": np.where(np.arange(3) == 2, np.nan, BODY)}, "joints3d_world, joint 0: some .* nan"),
    ({"joints3d_world": np.full_like(BODY, np.nan)}, "joints3d_world has no labelled joint"),
    ({"joints3d_world": BODY + np.array([np.inf, 0, 0])}, "joints3d_world holds infinite"),
    ({"joints3d_world": None}, "neither joints3d_world nor joints2d"),
    ({"camera": None}, "without a camera"),
    ({"camera": inverted(look_at_person(size=(640, 480), focal=500.0))}, "camera: .*inverted"),
    ({"bbox": np.array([10.0, 10, 0, 50])}, "bbox is .*positive"),
    ({"bbox": np.array([10.0, 10, np.nan, 50])}, "bbox is .*finite"),
    ({"bbox": np.array([700.0, 10, 50, 50])}, "bbox .* lies outside"),
    ({"mask": np.zeros((640, 480), bool)}, r"mask has shape \[640, 480\]"),
    ({"image": np.zeros((480, 640), np.uint8)}, r"image has shape \[480, 640\]"),
])
def test_wrong_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        crop_example(person_raw(**changes))


def test_a_face_alone_is_no_unit_mix_up():
    face = np.full_like(BODY, np.nan)
    face[:3] = BODY[0] + np.array([[0, 0, 0], [30, 0, 0], [0, 0, 40]])
    assert np.isfinite(crop_example(person_raw(joints3d_world=face)).joints3d).sum() == 9


@pytest.mark.parametrize("kind, kept_share", [("jpg", 0.5), ("jpg", 0.995), ("jpg", 0), ("png", 0.9), ("png", 0.3)])
def test_truncated_images_are_refused(tmp_path, kind, kept_share):
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    data = bytes(cv2.imencode(f".{kind}", image)[1])
    path = tmp_path / f"image.{kind}"
    path.write_bytes(data)
    assert load_image(path).shape == (120, 160, 3)
    path.write_bytes(data[:int(kept_share * len(data))])
    with pytest.raises(ValueError, match=f"image.{kind} .* cannot be decoded"):
        load_image(path)
    path.unlink()
    with pytest.raises(ValueError, match=f"image.{kind} cannot be read"):
        load_image(path)


def test_thumbnail_in_a_truncated_jpeg_does_not_count_as_its_end(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    data = bytes(cv2.imencode(".jpg", image)[1])
    thumbnail = b"Exif\0\0" + b"\xff\xd8 a small picture \xff\xd9"
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    with_thumbnail = data[:2] + segment + data[2:]
    path = tmp_path / "image.jpg"
    path.write_bytes(with_thumbnail)
    np.testing.assert_array_equal(load_image(path), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))
    path.write_bytes(with_thumbnail[:-10])
    with pytest.raises(ValueError, match="truncated"):
        load_image(path)
