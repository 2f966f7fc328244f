"""The HSPACE adapter on files in the authors' layout: records of encoded pictures, masks and joints of painted people."""

import functools
import pickle
import struct

import cv2
import numpy as np
import pytest

from datasets.adapters import hspace
from datasets.prepare import prepare
from posepile.data import tfrecord
from posepile.data.records import PreparedDataset, decode_mask
from posepile.geometry.camera import project
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint

ADAPTER = hspace.ADAPTER
SKELETON = load_skeleton("ghum_35")
WIDTH, HEIGHT = 1024, 768
FX, FY, CX, CY = 901.5, 899.0, 530.25, 371.5
PLACES = (-0.8, -0.05, 3.2), (1.0, -0.05, 4.0)  # of the two people, m
MASK_IDS = 6, 10
MARGIN = 15  # px of the masks around the joints
FINGERS = [f"{finger}{i}" for finger in ("index", "middle", "ring", "pinky", "thumb") for i in (1, 2, 3)]
# The 63 joints in the order of the files.
JOINTS = ["pelvis", "spine1", "spine2", "spine3", "neck", "head", "head2", "left_brow1", "left_brow2", "right_brow1",
          "right_brow2", "left_brow3", "right_brow3",
          *(f"left_{name}" for name in ("clavicle", "shoulder", "elbow", "wrist", *FINGERS)),
          *(f"right_{name}" for name in ("clavicle", "shoulder", "elbow", "wrist", *FINGERS)),
          *(f"{side}_{name}" for side in ("left", "right") for name in ("hip", "knee", "ankle", "heel", "foot", "toe"))]


def person(place):
    """[35, 3] metres, camera frame."""
    return body(SKELETON, place)


def file_joints(joints3d):
    """[63, 3]: those that are not in the format are somewhere else."""
    joints = np.full((63, 3), 7.0)
    for name, joint in zip(SKELETON.joint_names, joints3d, strict=True):
        joints[JOINTS.index(name)] = joint
    return joints


def pixels(joints3d):
    return joints3d[:, :2] / joints3d[:, 2:] * [FX, FY] + [CX, CY]


def mask_box(joints3d):
    """First and last pixel of a person in the label image: x0, y0, x1, y1."""
    points = pixels(joints3d)
    return [*(points.min(axis=0).astype(int) - MARGIN).tolist(), *(points.max(axis=0).astype(int) + MARGIN).tolist()]


def png(image):
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


@functools.cache
def blank_png():
    return png(gray_image(WIDTH, HEIGHT))


def record(people, painted=0, **changes):
    """A frame of people [35, 3].

    Args:
        painted: whose joints, every second one beginning with this number; None: nobody's.
        changes: other features, a double underline for a slash; None: missing.
    """
    image = blank_png()
    if people and painted is not None:
        pixels_rgb = gray_image(WIDTH, HEIGHT)
        paint(pixels_rgb, pixels(people[painted])[painted_joints(painted)], radius=6)
        # The picture's red is stored as blue: OpenCV, which takes its channels for blue, green and red, turns them around.
        image = png(pixels_rgb)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    features = {"camera_intrinsics": np.array([FX, FY, CX, CY]), "number_of_rigged_characters": np.array([len(people)])}
    for i, joints3d in enumerate(people):
        x0, y0, x1, y1 = mask_box(joints3d)
        labels[y0:y1 + 1, x0:x1 + 1] = MASK_IDS[i]  # the upper half: the body, the lower: clothes
        labels[(y0 + y1) // 2:y1 + 1, x0:x1 + 1] = MASK_IDS[i] - 1
        features |= {f"RIGGED_{i}/joints_3d": file_joints(joints3d).ravel(), f"RIGGED_{i}/mask_id": np.array([MASK_IDS[i]]),
                     f"RIGGED_{i}/ghum_pose": np.zeros(10)}
    labels[5:7, 5:7] = MASK_IDS[0]  # a speck
    features |= {"image/rgb": image, "character_masks": png(labels)}
    features |= {name.replace("__", "/"): value for name, value in changes.items()}
    return tfrecord.encode_example({name: value for name, value in features.items() if value is not None})


def huge_image():
    """The header of a bitmap of 2^17 x 2^17 px."""
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 200, 0, 54, 40, 2**17, 2**17, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(146)


def painted_joints(number):
    """All 35 would touch each other."""
    return list(range(number % 2, 35, 2))


def write_file(raw_dir, payloads, name="2021_01/train/a.tfrecord"):
    path = raw_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(tfrecord.frame_record, payloads)))


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def who(items):
    return [(item.provenance["frame"], item.provenance["person"]) for item in items]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    people = [[person(np.add(place, (0, 0, 0.2 * frame))) for place in PLACES] for frame in range(2)]
    write_file(raw_dir, [record(people[frame], painted=frame) for frame in range(2)])
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert list(manifest["splits"]) == ["train"] and not manifest["skipped"] and manifest["skeleton"] == SKELETON.to_dict()
    dataset = PreparedDataset(data_root / "hspace")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert who(examples) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for frame, example in ((0, examples[0]), (1, examples[3])):
        check_crop(example, 1000 * people[frame][frame], painted_joints(frame))
        mask = decode_mask(example.mask_rle, *example.decode_image().shape[:2])
        x, y = np.round(project(example.joints3d, example.intrinsics)).astype(int).T
        assert mask[y, x].all() and mask.sum() == pytest.approx(example.bbox[2:].prod(), rel=0.06)
    assert examples[3].provenance == {"source": "2021_01/train/a.tfrecord", "sequence": "a", "frame": 1, "person": 1}


def test_joints_of_the_format_are_found_by_their_names():
    assert list(hspace.FILE_JOINTS) == JOINTS and len(JOINTS) == 63
    rows = [*range(8), 9, *range(13, 17), 20, 22, *range(31, 36), 39, 41, *range(50, 63)]
    assert rows == hspace.ROWS


def test_masks_and_boxes_are_those_of_both_numbers_without_specks(tmp_path):
    people = [person(place) for place in PLACES]
    write_file(tmp_path, [record(people)])
    for example, joints3d in zip(load_all(tmp_path), people, strict=True):
        assert example.camera.up.tolist() == [0, -1, 0] and example.joints3d_world.shape == (35, 3)
        x0, y0, x1, y1 = mask_box(joints3d)
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[y0 - 2:y1 + 2, x0 - 2:x1 + 2] = True  # a square of 4: grown by 3, to 2 px at one side and 1 at the other
        np.testing.assert_array_equal(example.mask, expected)
        np.testing.assert_array_equal(example.bbox, [x0 - 2.5, y0 - 2.5, x1 - x0 + 4, y1 - y0 + 4])


def test_a_person_of_number_1_has_not_the_background(tmp_path):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[100:400, 50:200] = 1
    write_file(tmp_path, [record([person(PLACES[0])], RIGGED_0__mask_id=np.array([1]), character_masks=png(labels))])
    np.testing.assert_array_equal(load_all(tmp_path)[0].bbox, [47.5, 97.5, 153, 303])


def test_narrow_people_are_left_out_and_are_not_remembered(tmp_path):
    joints3d = person(PLACES[0])
    labels = [np.zeros((HEIGHT, WIDTH), np.uint8) for _ in range(2)]
    labels[0][100:400, 50:146] = labels[1][100:400, 50:147] = MASK_IDS[0]  # 96 and 97 px, and 3 that are grown
    write_file(tmp_path, [record([joints3d], character_masks=png(image)) for image in labels])
    assert who(load_all(tmp_path)) == [(1, 0)]


def test_people_are_compared_with_the_last_20_poses_of_the_file(tmp_path):
    def frames(steps):
        return [record([person(np.add(PLACES[0], (step / 1000, 0, 0)))], painted=None) for step in steps]

    write_file(tmp_path, frames([0, 95, 102, 0, 95, 205, 102]))
    assert who(load_all(tmp_path)) == [(0, 0), (2, 0), (5, 0)]
    steps = [-200 + 101 * i for i in range(20)]
    write_file(tmp_path, frames([*steps, -200, 1820, -200]))  # the first is remembered until the 21st is kept
    assert [frame for frame, _ in who(load_all(tmp_path))] == [*range(20), 21, 22]


def test_one_joint_that_moves_is_enough(tmp_path):
    joints3d = person(PLACES[0])
    moved = joints3d.copy()
    moved[-1] += [0, 0, 0.101]
    write_file(tmp_path, [record([pose], painted=None) for pose in (joints3d, moved)])
    assert who(load_all(tmp_path)) == [(0, 0), (1, 0)]


def test_a_broken_person_or_record_does_not_stop_the_others(tmp_path):
    people = [person(place) for place in PLACES]
    nan = file_joints(people[0]).ravel()
    nan[40] = np.nan
    write_file(tmp_path, [
        record(people, RIGGED_0__joints_3d=nan), record(people, camera_intrinsics=np.array([900.0, 900, 500])),
        record(people, number_of_rigged_characters=np.array([3])), record(people, character_masks=huge_image()),
        record([person((1.3, 0, 4.2))], image__rgb=b""), record(people, RIGGED_1__mask_id=None),
        record([], number_of_rigged_characters=np.array([0])), record([people[0]], RIGGED_1__joints_3d=np.zeros(0)),
        record([person((0.3, 0, 3.2))]), record(people, character_masks=png(gray_image(WIDTH, HEIGHT)))])
    items = load_all(tmp_path)
    examples = [item for item in items if not isinstance(item, ValueError)]
    assert who(examples) == [(0, 1), (5, 0), (8, 0)]  # 7 is as 5, and has an unused place
    messages = [str(item) for item in items if isinstance(item, ValueError)]
    expected = ["record 0: RIGGED_0/joints_3d: expected 189 finite numbers", "record 1: camera_intrinsics: expected 4 finite",
                "record 2: number_of_rigged_characters is 3, but there are joints_3d of 2 people",
                "record 3: character_masks: expected an encoded image", "record 4: image/rgb: expected an encoded image",
                "record 5: RIGGED_1/mask_id: expected 1 finite numbers, got None", "record 9: character_masks has 3 channels"]
    assert len(messages) == len(expected)
    for message, part in zip(messages, expected, strict=True):
        assert f"2021_01/train/a.tfrecord: {part}" in message


def test_a_damaged_file_is_reported_and_the_rest_goes_on(tmp_path):
    raw_dir = tmp_path / "raw"
    for name in ("a", "b", "c"):
        write_file(raw_dir, [record([person(PLACES[0])])], f"train/{name}.tfrecord")
    (raw_dir / "train" / "a.tfrecord").write_bytes((raw_dir / "train" / "a.tfrecord").read_bytes()[:-9])
    data = bytearray((raw_dir / "train" / "b.tfrecord").read_bytes())
    data[99] ^= 1
    (raw_dir / "train" / "b.tfrecord").write_bytes(data)
    manifest = prepare(ADAPTER, raw_dir, tmp_path / "data", workers=1, skip_bad=True, progress=False)
    assert manifest["splits"]["train"]["num_examples"] == 1
    first, second = (entry["reason"] for entry in manifest["skipped"])
    assert "a.tfrecord: record 0 at byte 0: the file ends inside of it" in first
    assert "b.tfrecord: record 0 at byte 0: its content does not fit its checksum" in second


def test_all_files_of_the_folder_train_are_for_training(tmp_path):
    for name in ("train/b", "train/a", "test/c"):
        write_file(tmp_path, [], f"{name}.tfrecord")
    assert ADAPTER.list_units(tmp_path, "train") == ["train/a.tfrecord", "train/b.tfrecord"]
    assert ADAPTER.list_units(tmp_path, "test") == ADAPTER.list_units(tmp_path, "validation") == []


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*2021_01/train/\*\.tfrecord\. Get the folder 2021_01 .* https://github"):
        ADAPTER.list_units(tmp_path, "train")


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "hspace"
