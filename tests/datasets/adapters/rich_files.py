"""Files as RICH distributes them, of a made-up body whose joints are coloured dots in the pictures of made-up cameras."""

import pickle

import cv2
import numpy as np

from datasets.body_models import _LANDMARK_VERTICES, LANDMARK_NAMES
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, gray_image, paint
from tests.datasets.body_model_files import posed_rigid_points, rigid_model, write_npz

SKELETON = load_skeleton("smplx_42")
WIDTH, HEIGHT = 1000, 760
# Three cameras: number, size, rotation vector and position (m) in the frame of the first one, which is the world.
SIZES = {0: (WIDTH, HEIGHT), 3: (WIDTH, HEIGHT), 10: (WIDTH, HEIGHT), 5: (HEIGHT, WIDTH)}
POSES = {0: ([0, 0, 0], [0, 0, 0]), 3: ([-0.05, -0.4, 0.04], [-1.6, -0.3, 0.2]), 5: ([0.1, 0.55, -0.06], [2.2, 0.5, 0.4])}
DISTORTION = np.array([-0.12, 0.05, 0.002, -0.003, 0.01])
PLACE = np.array([-0.05, 0.05, 4.0])  # of the pelvis, m

# The joints of SMPL-X: 25 of the body and face, then index, middle, pinky, ring and thumb of the left and the right hand.
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15,
           20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38, 21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50,
           21, 52, 53)
FINGERS = ("index", "middle", "pinky", "ring", "thumb")
JOINT_NAMES = (*SKELETON.joint_names[:25], *(f"{side}_{finger}{part}" for side in ("left", "right") for finger in FINGERS
                                             for part in (1, 2, 3)))
POINT_NAMES = (*JOINT_NAMES, *LANDMARK_NAMES, *(f"face{i}" for i in range(51)))
# As the published list of the 42 points says: their numbers among the 127.
LABELLED = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 28, 43, 55, 56, 57, 58,
            59, 60, 61, 62, 63, 64, 65, 66, 68, 71, 73]
# m at rest, beside the body, each on its side: chosen so that no dot touches another in any camera.
FACE_HANDS_FEET = {name: np.array(place) for name, place in {
    "jaw": (0, -0.75, 0.02), "nose": (-0.05, 0.73, 0.08),
    "left_eye_joint": (0.39, -0.2, -0.06), "right_eye_joint": (-0.43, -0.86, 0.07), "left_middle1": (0.47, 0.58, 0.04),
    "right_middle1": (-0.16, 0.6, 0.09), "left_eye": (0.28, -0.8, 0.01), "right_eye": (-0.31, -0.31, 0.05),
    "left_ear": (0.45, -0.41, 0.05), "right_ear": (-0.47, 0.6, 0.07), "left_big_toe": (0.4, -0.62, -0.08),
    "right_big_toe": (-0.45, -0.15, -0.09), "left_small_toe": (0.48, -0.02, -0.01), "right_small_toe": (-0.4, -0.65, 0.09),
    "left_heel": (0.31, 0.74, 0.09), "right_heel": (-0.27, 0.74, -0.02), "left_thumb_tip": (0.29, -0.27, 0.07),
    "right_thumb_tip": (-0.27, -0.4, 0), "left_middle_tip": (0.46, -0.84, -0.02), "right_middle_tip": (-0.24, -0.79, -0.08),
}.items()}
NUM_VERTICES = 10475
SIZE = {"male": 1.0, "female": 0.9}  # of the bodies
_RNG = np.random.default_rng(0)
HAND_MEAN, HAND_COMPONENTS = 0.3 * _RNG.standard_normal((2, 45)), 0.3 * _RNG.standard_normal((2, 45, 45))
NOSE_SHIFT = 0.05  # m along x, by the first expression parameter


def rest_points(gender):
    """[127, 3] m, y up, facing along z: the labelled ones as painted people stand, the others near what carries them."""
    labelled = {**dict(zip(SKELETON.joint_names, body(SKELETON, (0, 0.1, 0)) * [1, -1, -1], strict=True)), **FACE_HANDS_FEET}
    points = np.empty((127, 3))
    for i, name in enumerate(POINT_NAMES):
        side = name.split("_")[0]
        near = "nose" if name.startswith("face") else f"{side}_wrist"
        points[i] = labelled[name] if name in labelled else labelled[near] + 0.002 * (i % 40)
    return SIZE[gender] * points


def carriers():
    """[127] the joint that each point follows: a finger tip its finger's last joint."""
    landmarks = []
    for name in LANDMARK_NAMES:
        side, part = name.split("_", 1) if "_" in name else ("", name)
        if part.endswith("_tip"):
            landmarks.append(JOINT_NAMES.index(f"{side}_{part.removesuffix('_tip')}3"))
        else:
            landmarks.append(JOINT_NAMES.index(f"{side}_foot" if "toe" in part or part == "heel" else "head"))
    return [*range(55), *landmarks, *[JOINT_NAMES.index("head")] * 51]


def write_models(folder):
    """SMPLX_MALE.npz and SMPLX_FEMALE.npz, of the number of vertices of the official ones."""
    for gender in ("male", "female"):
        points = rest_points(gender)
        model = rigid_model(points, carriers(), PARENTS, NUM_VERTICES, num_directions=20)
        landmarks, first = list(_LANDMARK_VERTICES[NUM_VERTICES]), NUM_VERTICES - 127
        for key in ("v_template", "shapedirs", "weights"):
            model[key][landmarks] = model[key][first + 55:first + 76]
        model["shapedirs"][landmarks[0], 0, 10] = NOSE_SHIFT
        model["f"] = np.tile(np.arange(first + 76, NUM_VERTICES, dtype=np.uint32)[:, None], (1, 3))
        hands = {f"hands_{name}{side}": values[i] for i, side in enumerate("lr")
                 for name, values in (("mean", HAND_MEAN), ("components", HAND_COMPONENTS))}
        write_npz(folder / "models" / "smplx" / f"SMPLX_{gender.upper()}.npz", {
            **model, **hands, "lmk_faces_idx": np.arange(51), "lmk_bary_coords": np.full((51, 3), 1 / 3)})
    return folder


def fit(offset=0.0):
    """The parameters of a person who stands `offset` m to the right in the first camera; each [1, n] float32."""
    rng = np.random.default_rng(0)
    sizes = {"betas": 10, "global_orient": 3, "transl": 3, "left_hand_pose": 12, "right_hand_pose": 12, "jaw_pose": 3,
             "leye_pose": 3, "reye_pose": 3, "expression": 10, "body_pose": 63}
    parameters = {name: np.float32(0.07 * rng.standard_normal((1, size))) for name, size in sizes.items()}
    parameters["global_orient"][:] = [3.1, 0.05, -0.1]  # from y up to y down
    parameters["transl"][:] = PLACE + np.array([offset, 0, 0])
    parameters["betas"][0] = [0.4, *[0] * 9]
    parameters["expression"][0, 0] = 0.5
    return parameters


def truth(gender, parameters):
    """[127, 3] mm, world."""
    parts = {name: np.float64(values[0]) for name, values in parameters.items()}
    rotations = np.concatenate([parts[f"{name}_pose"] if name != "global_orient" else parts[name]
                                for name in ("global_orient", "body", "jaw", "leye", "reye")])
    hands = [HAND_MEAN[i] + sum(parts[f"{side}_hand_pose"][k] * HAND_COMPONENTS[i, k] for k in range(12))
             for i, side in enumerate(("left", "right"))]
    points = rest_points(gender) * (1 + 0.1 * parts["betas"][0])
    points[POINT_NAMES.index("nose"), 0] += NOSE_SHIFT * parts["expression"][0]
    rotations = np.concatenate([rotations, *hands]).reshape(55, 3)
    return 1000 * posed_rigid_points(points, carriers(), PARENTS, rotations, parts["transl"])


def intrinsics(number):
    width, height = SIZES[number]
    return np.array([[905.0, 0, width / 2 + 11 + number], [0, 911.0, height / 2 - 17], [0, 0, 1]])


def image_points(points, number):
    """[n, 2] px of the distorted image, by OpenCV."""
    vector, position = POSES[number]
    rotation, _ = cv2.Rodrigues(np.float64(vector))
    translation = -1000 * rotation @ np.float64(position)
    return cv2.projectPoints(points, rotation, translation, intrinsics(number), DISTORTION)[0][:, 0]


def painted_joints(i, number):
    """Which half of the labelled joints is painted in the i-th picture of a camera: the colours of all are too close."""
    half = (i + number) % 2
    return range(21 * half, 21 * half + 21)


def write_calibration(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    rotation, _ = cv2.Rodrigues(np.float64(POSES[number][0]))
    storage = cv2.FileStorage(str(path), cv2.FileStorage_WRITE)
    storage.write("CameraMatrix", np.column_stack([rotation, -rotation @ np.float64(POSES[number][1])]))
    storage.write("Intrinsics", intrinsics(number))
    storage.write("Distortion", DISTORTION[:, None])
    storage.release()


def write_sequence(images, bodies, name, people, suffix="png", frames=None, numbers=(0, 3)):
    """Pictures and fits of a sequence; of several people the first is painted.

    Args:
        images, bodies: folders of the split.
        people: subject -> gender, fits of all frames; None for a fit that is missing.
        frames: their numbers; default: from 150 on, every fifth.
        numbers: of the cameras.
    """
    count = max(len(fits) for _, fits in people.values())
    for i, frame in enumerate(range(150, 150 + 5 * count, 5) if frames is None else frames):
        for subject, (_, fits) in people.items():
            path = bodies / name / f"{frame:05d}" / f"{subject:03d}.pkl"
            path.parent.mkdir(parents=True, exist_ok=True)
            if fits[i] is not None:
                path.write_bytes(pickle.dumps(fits[i]))
        gender, fits = next(iter(people.values()))
        for number in numbers:
            picture = gray_image(*SIZES[number])
            if number in POSES and fits[i] is not None:
                points = truth(gender, fits[i])[LABELLED]
                paint(picture, image_points(points[painted_joints(i, number)], number), radius=5)
            path = images / name / f"cam_{number:02d}" / f"{frame:05d}_{number:02d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), picture[..., ::-1])


def write_cameras(folder, scene, numbers=(0, 3, 5)):
    for number in numbers:
        write_calibration(folder / scene / "calibration" / f"{number:03d}.xml", number)
