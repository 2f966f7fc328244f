"""Files as MPI-INF-3DHP distributes them, of a made-up actor whose joints are coloured dots in front of made-up cameras."""

import cv2
import h5py
import numpy as np
import scipy.io

from tests.datasets.adapters.painted_people import write_video

GREEN = (40, 120, 60)
IMAGE_SIDE = 2048
# The 28 joints as they stand in annot.mat: name, and mm in the world, y up. No dot covers another one in cameras 0, 12, 13.
JOINTS = [
    ("spine3", (0, 1330, 20)), ("spine4", (60, 1420, -40)), ("spine2", (-60, 1230, 10)), ("spine", (30, 1130, 60)),
    ("pelvis", (0, 960, 0)), ("neck", (10, 1510, 0)), ("head", (70, 1600, 60)), ("head_top", (-20, 1700, 0)),
    ("left_clavicle", (130, 1480, 70)), ("left_shoulder", (230, 1400, -30)), ("left_elbow", (330, 1180, 40)),
    ("left_wrist", (430, 1010, 150)), ("left_hand", (520, 900, 220)), ("right_clavicle", (-110, 1450, -60)),
    ("right_shoulder", (-240, 1360, 40)), ("right_elbow", (-370, 1280, 130)), ("right_wrist", (-480, 1450, 190)),
    ("right_hand", (-560, 1580, 250)), ("left_hip", (120, 880, 60)), ("left_knee", (190, 480, 110)),
    ("left_ankle", (240, 120, -60)), ("left_foot", (320, 50, 80)), ("left_toe", (430, 20, 200)),
    ("right_hip", (-160, 1020, -50)), ("right_knee", (-220, 560, 60)), ("right_ankle", (-200, 200, -130)),
    ("right_foot", (-290, 110, 30)), ("right_toe", (-360, 60, 160))]
NAMES = [name for name, _ in JOINTS]
# The 17 joints of the test set in the order of its files.
TEST_NAMES = ["head_top", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
              "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "pelvis", "spine", "head"]
# Of the test cameras, as published: width, height, fx, fy, cx, cy, k1, k2, p1, p2, k3, origin, up, right. The principal points'
# y are those to which the published labels project, 0.5 and 4 px above the published ones.
TEST_CAMERAS = {
    "TS1": (2048, 2048, (1500.172, 1500.832, 1017.387, 1043.03), (0, 0, 0, 0, 0), (3427.28, 1387.86, 309.42),
            (-0.208215, 0.976233, 0.06014), (0.000575281, 0.0616098, -0.9981)),
    "TS6": (1920, 1080, (1683.983, 1672.594, 939.858, 560.14),
            (-0.276859611, 0.131125256, -0.000360494, -0.001149441, -0.049318332), (-2104.3074, 1038.6707, -4596.6367),
            (0.025272345, 0.995038509, 0.096227370), (-0.939647257, -0.009210289, 0.342020929))}


def poses(offsets):
    """[num_frames, 28, 3] mm: the actor at so many mm along the world's z axis."""
    joints = np.array([position for _, position in JOINTS], np.float64)
    return joints + np.array([[[0, 0, offset]] for offset in offsets], np.float64)


def camera_matrices(camera, subject=1):
    """Intrinsics [3, 3] and world-to-camera [4, 4], mm, of a camera on a circle around the actor, a bit rolled."""
    angle = 0.12 + 2 * np.pi * camera / 14
    position = np.array([4000 * np.sin(angle), 1500 + 20 * subject, 4000 * np.cos(angle)])
    forward = np.array([0, 1000, 0]) - position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.03, 1, 0])
    right = right / np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    extrinsic = np.eye(4)
    extrinsic[:3, :3], extrinsic[:3, 3] = rotation, -rotation @ position
    return np.array([[1497.7 + camera, 0, 1024.7], [0, 1497.1, 1051.4 - camera], [0, 0, 1.0]]), extrinsic


def to_camera(joints3d_world, camera, subject=1):
    _, extrinsic = camera_matrices(camera, subject)
    return joints3d_world @ extrinsic[:3, :3].T + extrinsic[:3, 3]


def pixels(joints3d_camera, intrinsics):
    return joints3d_camera[..., :2] / joints3d_camera[..., 2:] * np.diag(intrinsics)[:2] + intrinsics[:2, 2]


def write_calibration(path, subject=1, cameras=range(14)):
    lines = ["Skeletool Camera Calibration File V1.0"]
    for camera in cameras:
        intrinsics, extrinsic = camera_matrices(camera, subject)
        intrinsic = np.eye(4)
        intrinsic[:3, :3] = intrinsics
        lines += [f"name          {camera}", "  sensor      10 10", f"  size        {IMAGE_SIDE} {IMAGE_SIDE}",
                  "  animated    0",
                  f"  intrinsic   {' '.join(map(repr, map(float, intrinsic.ravel())))} ",
                  f"  extrinsic   {' '.join(map(repr, map(float, extrinsic.ravel())))} ", "  radial      0"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_labels(path, joints3d_world, subject=1):
    """annot.mat of MATLAB 5: 14 x 1 cells of one row per frame, all joints one after the other."""
    cells = {name: np.empty((14, 1), object) for name in ("annot2", "annot3", "univ_annot3")}
    for camera in range(14):
        joints3d = to_camera(joints3d_world, camera, subject)
        num_frames = len(joints3d)
        cells["annot3"][camera, 0] = joints3d.reshape(num_frames, 84)
        cells["univ_annot3"][camera, 0] = 0.9 * joints3d.reshape(num_frames, 84)
        joints2d = pixels(joints3d, camera_matrices(camera, subject)[0])
        joints2d[:, [NAMES.index("left_hip"), NAMES.index("right_hip")]] += 2  # as in the published labels
        cells["annot2"][camera, 0] = joints2d.reshape(num_frames, 56)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {**cells, "frames": np.arange(len(joints3d_world))[:, None], "cameras": np.arange(14)[None]},
                     do_compression=True)


def paint(image, joints2d, colors, radius=9):
    for color, center in zip(colors, joints2d, strict=True):
        cv2.circle(image, np.round(center * 16).astype(int).tolist(), radius * 16, [int(c) for c in color], -1, cv2.LINE_AA, 4)


def blank(color):
    return np.full((IMAGE_SIDE, IMAGE_SIDE, 3), color, np.uint8)


def foreground(joints2d):
    """The actor's box in bright red, clothes in green and blue; another bright part elsewhere, and some that is too dark."""
    image = blank(0)
    low, high = joints2d.min(axis=0).astype(int), joints2d.max(axis=0).astype(int)
    image[low[1]:high[1], low[0]:high[0]] = 200, 90, 0
    image[:60, :2000] = 255, 0, 0
    image[100:160, :2000] = 25, 255, 255
    return image


def write_sequence(raw_dir, colors, joints3d_world, subject=1, sequence=1, cameras=(0,), *, num_frames=None, chair=None,
                   with_masks=True):
    """One sequence, painted for some cameras.

    Args:
        joints3d_world: [num_frames, 28, 3] mm of all rows of the labels.
        num_frames: that the videos have; None: as many as rows.
        chair: x, y, width, height of a chair in the chair masks; None: there are no chair masks.
    """
    folder = raw_dir / f"S{subject}" / f"Seq{sequence}"
    write_calibration(folder / "camera.calibration", subject)
    write_labels(folder / "annot.mat", joints3d_world, subject)
    for camera in cameras:
        points = pixels(to_camera(joints3d_world[:num_frames], camera, subject), camera_matrices(camera, subject)[0])
        images = [blank(GREEN) for _ in points]
        for image, joints2d in zip(images, points, strict=True):
            paint(image, joints2d, colors)
        write_video(folder / "imageSequence" / f"video_{camera}.avi", images, "HFYU", 25)
        if with_masks:
            write_video(folder / "FGmasks" / f"video_{camera}.avi", map(foreground, points), "HFYU", 25)
        if chair is not None:
            x, y, width, height = chair
            image = blank((220, 0, 0))
            image[y:y + height, x:x + width] = 10, 0, 0
            write_video(folder / "ChairMasks" / f"video_{camera}.avi", [image] * len(points), "HFYU", 25)


def rotation_of_test_camera(name):
    up, right = np.array(TEST_CAMERAS[name][5]), np.array(TEST_CAMERAS[name][6])
    return np.stack([right, -up, np.cross(up, right)])


def write_test_sequence(folder, name, colors, joints3d_camera, is_valid, activities):
    """annot_data.mat of MATLAB 7.3, and the pictures, of one camera with a real lens.

    Args:
        joints3d_camera: [num_frames, 17, 3] mm, in the order of the files.
    """
    width, height, (fx, fy, cx, cy), distortion, *_ = TEST_CAMERAS[name]
    intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    (folder / name / "imageSequence").mkdir(parents=True)
    with h5py.File(folder / name / "annot_data.mat", "w", userblock_size=512) as file:
        for key, values in {"annot2": pixels(joints3d_camera, intrinsics)[:, None], "annot3": joints3d_camera[:, None],
                            "univ_annot3": 0.9 * joints3d_camera[:, None], "valid_frame": np.float64(is_valid)[:, None],
                            "activity_annotation": np.float64(activities)[:, None]}.items():
            file[key] = values
            file[key].attrs["MATLAB_class"] = np.bytes_("double")
    for i, joints3d in enumerate(joints3d_camera):
        points, _ = cv2.projectPoints(joints3d, np.zeros(3), np.zeros(3), intrinsics, np.float64(distortion))
        image = np.full((height, width, 3), (90, 90, 100), np.uint8)
        paint(image, points[:, 0], colors, radius=8)
        cv2.imwrite(str(folder / name / "imageSequence" / f"img_{i + 1:06d}.jpg"), image[..., ::-1],
                    [cv2.IMWRITE_JPEG_QUALITY, 98])
