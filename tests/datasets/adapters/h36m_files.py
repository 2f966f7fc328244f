"""Files as Human3.6M distributes them, of a made-up actor whose joints are coloured dots in the videos of made-up cameras."""

import struct

import cv2
import h5py
import numpy as np

from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters import painted_people

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
IMAGE_SIZES = ((1000, 1002), (1000, 1000), (1000, 1000), (1000, 1002))
FOCAL, CENTER = (1145.05, 1143.78), (512.54, 515.45)
K1, K2, K3, P1, P2 = -0.2071, 0.2478, -0.0031, -0.0014, -0.00098
# The 32 joints as they stand in the files: name, and mm in the world, x to the left, y to the back, z up from the floor. A bit
# contorted, so that no dot covers another one in any camera.
JOINTS = [
    ("pelvis", (20, 130, 790)), ("right_hip", (-230, -140, 940)), ("right_knee", (-150, -60, 500)),
    ("right_ankle", (-160, 220, 110)), ("right_foot", (-170, -30, 20)), ("right_toe", (-140, -160, 130)),
    ("left_hip", (160, 50, 1050)), ("left_knee", (180, -90, 520)), ("left_ankle", (40, -10, 40)),
    ("left_foot", (190, -180, 20)), ("left_toe", (380, -60, 20)), ("pelvis", (20, 130, 790)), ("spine", (70, -40, 1260)),
    ("neck", (-60, 50, 1520)), ("head", (120, -160, 1610)), ("head_top", (40, -10, 1650)), ("neck", (-60, 50, 1520)),
    ("left_shoulder", (180, 10, 1390)), ("left_elbow", (330, 0, 1180)), ("left_wrist", (400, -180, 1080)),
    ("left_wrist", (400, -180, 1080)), ("left_thumb", (390, -480, 950)), ("left_fingers", (350, -220, 970)),
    ("left_fingers", (350, -220, 970)), ("neck", (-60, 50, 1520)), ("right_shoulder", (-150, 20, 1400)),
    ("right_elbow", (-260, -40, 1080)), ("right_wrist", (-360, -50, 1300)), ("right_wrist", (-360, -50, 1300)),
    ("right_thumb", (-320, -170, 1240)), ("right_fingers", (-630, -30, 1460)), ("right_fingers", (-630, -30, 1460))]
NAMES = [name for name, _ in JOINTS]
SKELETON = load_skeleton("h36m_25")
PAINTED = [NAMES.index(name) for name in SKELETON.joint_names]


def find_colors(image, colors, max_distance=60, radius=6, min_chroma=100):
    """[n, 2] px: the centre of the dot of each colour [n, 3]; nan where there is none.

    Only the dots' cores are looked at, and stray pixels left out: video codecs let the colours of neighbours run together.
    """
    rows, columns = np.nonzero(np.ptp(image, axis=-1) > min_chroma)
    distance = np.linalg.norm(image[rows, columns][:, None] - np.float32(colors), axis=-1)
    centers = np.full((len(colors), 2), np.nan)
    for i in range(len(colors)):
        is_dot = (distance.argmin(axis=-1) == i) & (distance[:, i] < max_distance)
        pixels = np.column_stack([columns[is_dot], rows[is_dot]])
        if len(pixels) >= 4:
            is_near = np.linalg.norm(pixels - np.median(pixels, axis=0), axis=1) < radius
            centers[i] = pixels[is_near].mean(axis=0)
    return centers


def dot_colors(num_joints):
    """[num_joints, 3] RGB, as `painted_people.paint` paints them."""
    hsv = np.uint8([[[hue, 255, 255] for hue in painted_people.hues(num_joints)]])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0]


def poses(offsets):
    """[num_frames, 32, 3] mm: the actor at so many mm along the world's y axis."""
    joints = np.array([position for _, position in JOINTS], np.float64)
    return joints + np.array([[[0, offset, 0]] for offset in offsets], np.float64)


def euler_angles(subject, camera):
    """a, b, c of a camera that stands in a corner and looks down on the actor a little, and a little askew."""
    return 1.68 + 0.01 * subject, 0.04 * (camera - 1.5), np.deg2rad(25 + 90 * camera)


def rotation(a, b, c):
    rx = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    ry = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    rz = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.array(rx) @ ry @ rz


def camera_center(subject, camera):
    """Where the axis, at 5 m, meets the actor's belly."""
    return np.array([0, 0, 1000 + 20 * subject]) - 5000 * rotation(*euler_angles(subject, camera))[2]


def image_points(joints3d_world, subject, camera):
    """[n, 2] px of the distorted image, by OpenCV."""
    r = rotation(*euler_angles(subject, camera))
    k = np.array([[FOCAL[0], 0, CENTER[0] + camera], [0, FOCAL[1], CENTER[1]], [0, 0, 1]])
    points, _ = cv2.projectPoints(np.float64(joints3d_world), cv2.Rodrigues(r)[0], -r @ camera_center(subject, camera), k,
                                  np.array([K1, K2, P1, P2, K3]))
    return points[:, 0]


def write_metadata(path):
    extrinsics = [[[*euler_angles(subject, camera), *camera_center(subject, camera)] for subject in range(1, 12)]
                  for camera in range(4)]
    intrinsics = [[*FOCAL, CENTER[0] + camera, CENTER[1], K1, K2, K3, P1, P2] for camera in range(4)]
    numbers = [*np.ravel(extrinsics), *np.ravel(intrinsics)]
    assert len(numbers) == 300
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<metadata>
  <mapping><tr><td></td><td></td><td>S1</td></tr><tr><td>1</td><td>1</td><td>Directions 1</td></tr></mapping>
  <dbcameras><index2id>{' '.join(CAMERAS)}</index2id></dbcameras>
  <w0>[{' '.join(repr(float(number)) for number in numbers)}]</w0>
</metadata>
""")


def write_cdf(path, variable, values):
    """An uncompressed CDF file, version 3, of one record of float32, in the order of the format's specification."""
    values = np.asarray(values, "<f4")
    dims = values.shape
    cdr_size, gdr_size, vdr_size, vxr_size = 312, 84, 344 + 8 * len(dims), 44
    gdr = 8 + cdr_size
    vdr = gdr + gdr_size
    vxr = vdr + vdr_size
    vvr = vxr + vxr_size
    data = values.tobytes()
    end = vvr + 12 + len(data)
    cdr_record = struct.pack(">qiqiiiiiiiii256s", cdr_size, 1, gdr, 3, 7, 6, 3, 0, 0, 0, 2, -1, b"Common Data Format (CDF)")
    gdr_record = struct.pack(">qiqqqqiiiiiqiii", gdr_size, 2, 0, vdr, 0, end, 0, 0, -1, 0, 1, 0, 0, -1, -1)
    vdr_record = struct.pack(f">qiqiiqqiiiiiiiqi256si{2 * len(dims)}i", vdr_size, 8, 0, 44, 0, vxr, vxr, 1, 0, 0, -1, -1, 1, 0,
                             -1, 1, variable.encode(), len(dims), *dims, *([-1] * len(dims)))
    vxr_record = struct.pack(">qiqiiiiq", vxr_size, 6, 0, 1, 1, 0, 0, vvr)
    content = struct.pack(">II", 0xCDF30001, 0x0000FFFF) + cdr_record + gdr_record + vdr_record + vxr_record + \
        struct.pack(">qi", 12 + len(data), 7) + data
    assert len(content) == end and len(vdr_record) == vdr_size
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_boxes(path, boxes, image_size):
    """MATLAB 7.3: Masks holds a reference per frame to a 0/1 image. boxes: x, y, width, height of whole pixels; None: empty."""
    width, height = image_size
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        masks = file.create_dataset("Masks", (len(boxes), 1), h5py.ref_dtype)
        masks.attrs["MATLAB_class"] = np.bytes_("cell")
        for i, box in enumerate(boxes):
            mask = np.zeros((height, width), np.uint8)
            if box is not None:
                x, y, box_width, box_height = box
                mask[y:y + box_height, x:x + box_width] = 1
            stored = file.create_dataset(f"#refs#/m{i}", data=mask.T, compression="gzip")  # MATLAB's columns first
            stored.attrs["MATLAB_class"] = np.bytes_("uint8")
            masks[i, 0] = stored.ref


def whole_box(points, margin=10):
    """x, y, width, height of the pixels around image points."""
    low, high = np.floor(points.min(axis=0)).astype(int) - margin, np.ceil(points.max(axis=0)).astype(int) + margin
    return [*low.tolist(), *(high - low).tolist()]


def write_video(path, joints3d, subject, camera, num_frames=None):
    """joints3d: [num_frames, 32, 3]; the last one again where the video is longer."""
    num_frames = len(joints3d) if num_frames is None else num_frames
    images = [painted_people.gray_image(*IMAGE_SIZES[camera]) for _ in range(num_frames)]
    for i, image in enumerate(images):
        painted_people.paint(image, image_points(joints3d[min(i, len(joints3d) - 1)][PAINTED], subject, camera), radius=5)
    painted_people.write_video(path, images, "mp4v")


def write_sequence(raw_dir, subject, sequence, joints3d, cameras=CAMERAS, *, label_shift=0.0, num_video_frames=None,
                   num_boxes=None, empty_boxes=()):
    """One sequence as seen by some cameras.

    Args:
        joints3d: [num_frames, 32, 3] mm, what the videos show.
        label_shift: mm along x by which poses and boxes are off.
        empty_boxes: frames whose mask is black.
    """
    folder = raw_dir / f"S{subject}"
    labelled = joints3d + np.array([label_shift, 0, 0])
    write_cdf(folder / "MyPoseFeatures" / "D3_Positions" / f"{sequence}.cdf", "Pose", labelled.reshape(len(joints3d), 96))
    for camera_id in cameras:
        camera = CAMERAS.index(camera_id)
        name = f"{sequence}.{camera_id}"
        boxes = [None if i in empty_boxes else whole_box(image_points(labelled[min(i, len(labelled) - 1)], subject, camera))
                 for i in range(len(joints3d) if num_boxes is None else num_boxes)]
        write_boxes(folder / "MySegmentsMat" / "ground_truth_bb" / f"{name}.mat", boxes, IMAGE_SIZES[camera])
        write_video(folder / "Videos" / f"{name}.mp4", joints3d, subject, camera, num_video_frames)
