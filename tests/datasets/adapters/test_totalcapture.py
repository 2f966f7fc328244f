"""The TotalCapture adapter on files in the authors' layout: calibration and labels as text, videos of painted people."""

import pickle
import shutil

import numpy as np
import pytest

from datasets.adapters import totalcapture
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset, decode_mask
from posepile.geometry.camera import distort, project, transform
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video

ADAPTER = totalcapture.ADAPTER
SKELETON = load_skeleton("totalcapture_21")
WIDTH, HEIGHT = 880, 640
K1 = -0.06  # the real lenses distort less
# As the first line of the authors' files, and what those joints are.
FILE_NAMES = ["Hips", "Spine", "Spine1", "Spine2", "Spine3", "Neck", "Head", "RightShoulder", "RightArm", "RightForeArm",
              "RightHand", "LeftShoulder", "LeftArm", "LeftForeArm", "LeftHand", "RightUpLeg", "RightLeg", "RightFoot",
              "LeftUpLeg", "LeftLeg", "LeftFoot"]
NAMES = ["pelvis", "spine", "spine1", "spine2", "spine3", "neck", "head", "right_clavicle", "right_shoulder", "right_elbow",
         "right_wrist", "left_clavicle", "left_shoulder", "left_elbow", "left_wrist", "right_hip", "right_knee", "right_ankle",
         "left_hip", "left_knee", "left_ankle"]


def world_to_camera(camera):
    """[4, 4] m: cameras on a circle, looking down on the person, rolled; the world is y up."""
    angle = 0.25 * camera
    position = np.array([4.1 * np.sin(angle), 1.7, 4.1 * np.cos(angle)])
    forward = np.array([0.1, 0.9, 0]) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.05, 1, 0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return np.block([[rotation, -rotation @ position[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])


def intrinsics(camera):
    return np.array([[951.5, 0, 452.3 + camera], [0, 953.2, 309.1], [0, 0, 1]])


def truth(offset_mm):
    """[21, 3] mm, world: the person before the first camera, moved along the world's x."""
    joints = body(SKELETON, (0.05, -0.05, 4.2))
    joints[SKELETON.joint_names.index("spine")] += (-0.07, 0.04, 0)  # its dot would lie below that of spine1
    return 1000 * transform(joints, np.linalg.inv(world_to_camera(1))) + [offset_mm, 0, 0]


def image_points(joints3d_world, camera):
    """X_camera = R X + t, one radial coefficient."""
    points = transform(joints3d_world / 1000, world_to_camera(camera))
    normalized = points[:, :2] / points[:, 2:]
    normalized = normalized * (1 + K1 * (normalized**2).sum(axis=1, keepdims=True))
    return normalized * np.diag(intrinsics(camera))[:2] + intrinsics(camera)[:2, 2]


def write_calibration(path, num_cameras=2):
    lines = [f"{num_cameras} 1"]
    for camera in range(1, num_cameras + 1):
        k, extrinsic = intrinsics(camera), world_to_camera(camera)
        lines += [f"0 {HEIGHT - 1} 0 {WIDTH - 1}", f"{k[0, 0]} {k[1, 1]} {k[0, 2]} {k[1, 2]}", f"{K1}",
                  *(" ".join(map(repr, map(float, row))) for row in (*extrinsic[:3, :3], extrinsic[:3, 3]))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def around(points):
    """left, top, right, bottom: first and last column and row of pixels, a matte around all points."""
    return [*(np.floor(points.min(axis=0)) - 12), *(np.ceil(points.max(axis=0)) + 12)]


def write_sequence(raw_dir, name="S1", sequence="acting1", offsets=(0, 60, 120), cameras=(1, 2), *, mattes=None,
                   lengths=(None, None, None), columns=range(21)):
    """mattes: for each frame left, top, right, bottom; None: around the joints. lengths: frames of video, matte and labels.
    columns: the order of the joints in the labels."""
    write_calibration(raw_dir / "calibration.cal")
    poses = [truth(offset) for offset in offsets]
    for camera in cameras:
        images, matte_images = [], []
        for i, pose in enumerate(poses):
            points = image_points(pose, camera)
            images.append(gray_image(WIDTH, HEIGHT))
            paint(images[-1], points)
            left, top, right, bottom = np.int64(around(points) if mattes is None else mattes[i])
            matte_images.append(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
            matte_images[-1][max(top, 0):bottom + 1, max(left, 0):right + 1] = 255
        file = f"TC_{name}_{sequence}_cam{camera}.mp4"
        write_video(raw_dir / "video" / name.lower() / sequence / file, images[:lengths[0]], "FFV1", 60)
        write_video(raw_dir / "mattes" / name.lower() / sequence / file, matte_images[:lengths[1]], "FFV1", 60)
    lines = ["\t".join(FILE_NAMES[i] for i in columns) + "\t"]
    order = [SKELETON.joint_names.index(NAMES[i]) for i in columns]
    lines += ["\t".join(" ".join(repr(float(x)) for x in joint / 25.4) for joint in pose[order]) + "\t"
              for pose in poses[:lengths[2]]]
    path = raw_dir / "vicon" / name / sequence / "gt_skel_gbl_pos.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\r\n".join(lines) + "\r\n\r\n")


def load_all(raw_dir, split="train"):
    return [item for unit in ADAPTER.list_units(raw_dir, split) for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    write_sequence(raw_dir)
    write_sequence(raw_dir, "S5", "walking2", offsets=(30,), cameras=(2,))
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"]
    assert list(manifest["splits"]) == ["train", "test"]
    dataset = PreparedDataset(data_root / "totalcapture")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [(1, 0), (1, 2), (2, 0), (2, 2)]
    for example in examples:
        check_crop(example, truth(60 * example.provenance["frame"]))
        columns, rows = np.round(project(example.joints3d, example.intrinsics)).astype(int).T
        mask = decode_mask(example.mask_rle, *example.decode_image().shape[:2])
        assert mask[rows, columns].all() and mask.mean() < 0.5
    assert examples[3].provenance == {"source": "video/s1/acting1/TC_S1_acting1_cam2.mp4", "subject": "S1",
                                      "sequence": "S1/acting1", "camera": 2, "frame": 2}
    (example,) = [dataset.read("test", i) for i in range(dataset.num_examples("test"))]
    check_crop(example, truth(30))
    assert example.provenance["subject"] == "S5"


def test_cameras_are_metres_with_one_lens_coefficient_and_y_up(tmp_path):
    write_calibration(tmp_path / "calibration.cal")
    camera, image_size = totalcapture.read_camera(tmp_path / "calibration.cal", 2)
    assert image_size == (WIDTH, HEIGHT)
    np.testing.assert_allclose(camera.world_to_camera[:3, 3], 1000 * world_to_camera(2)[:3, 3])
    np.testing.assert_allclose(distort(np.array([0.3, 0.4]), camera.distortion), np.array([0.3, 0.4]) * (1 + 0.25 * K1))
    np.testing.assert_allclose(camera.up, world_to_camera(2)[:3, 1])


def test_columns_are_found_by_their_names(tmp_path):
    write_sequence(tmp_path, offsets=(0,), cameras=(1,), columns=np.random.default_rng(1).permutation(21))
    np.testing.assert_allclose(load_all(tmp_path)[0].joints3d_world, truth(0), atol=1e-6)


def test_boxes_are_what_joints_and_matte_have_in_common(tmp_path):
    points = image_points(truth(0), 1)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.125 * (high - low)  # on each side of a box 1.25 times as large
    left, bottom = int(low[0] + 20), int(high[1] - 9)
    write_sequence(tmp_path, offsets=(0,), cameras=(1,), mattes=[(left, 0, WIDTH - 1, bottom)])
    (example,) = load_all(tmp_path)
    # Left and bottom are the matte's: pixels cover half a pixel around their coordinates. Right and top are the joints'.
    x, y, width, height = example.bbox
    np.testing.assert_allclose([x, y + height], [left - 0.5, bottom + 0.5])
    np.testing.assert_allclose([x + width, y], [high[0] + margin[0], low[1] - margin[1]])
    assert example.mask.sum() == (WIDTH - left) * (bottom + 1) and example.mask[bottom, left] and not example.mask[0, left - 1]


def test_boxes_end_where_the_image_does(tmp_path):
    write_sequence(tmp_path, offsets=(place_with_joints_in_view(15),), cameras=(1,))
    (example,) = load_all(tmp_path)
    assert example.bbox[0] == -0.5 and 0 < example.bbox[2] < example.bbox[3] / 3


@pytest.mark.parametrize("count", [5, 6])
def test_frames_need_six_joints_in_view(tmp_path, count):
    write_sequence(tmp_path, offsets=(place_with_joints_in_view(count),), cameras=(1,), mattes=[(0, 0, 200, HEIGHT - 1)])
    assert len(load_all(tmp_path)) == (count >= 6)


def place_with_joints_in_view(count):
    """mm along the world's x, to the left in the first camera."""
    return next(x for x in range(-3000, 0, 5) if (image_points(truth(x), 1)[:, 0] >= -0.5).sum() == count)


def test_frames_with_an_empty_matte_or_one_elsewhere_are_left_out(tmp_path):
    write_sequence(tmp_path, offsets=(0, 150, 300), cameras=(1,), mattes=[(5, 5, 4, 4), (0, 0, 60, 60), (400, 50, 700, 600)])
    assert [e.provenance["frame"] for e in load_all(tmp_path)] == [2]


@pytest.mark.parametrize("lengths", [(2, None, None), (None, 2, None), (None, None, 2)])
def test_the_shortest_counts(tmp_path, lengths):
    write_sequence(tmp_path, offsets=(0, 150, 300), cameras=(1,), lengths=lengths)
    assert [e.provenance["frame"] for e in load_all(tmp_path)] == [0, 1]


def touch_sequence(raw_dir, subject, sequence, video="video/{s}/{q}", matte="mattes/{s}/{q}", vicon="vicon/{S}/{q}"):
    for folder, name in ((video, f"TC_{subject}_{sequence}_cam1.mp4"), (matte, f"TC_{subject}_{sequence}_cam1.mp4"),
                         (vicon, "gt_skel_gbl_pos.txt")):
        path = raw_dir / folder.format(s=subject.lower(), S=subject, q=sequence) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_splits(tmp_path):
    for subject, sequences in (("S1", "acting1 acting2 acting3 freestyle1 freestyle3 rom1 rom3 walking1 walking2 walking3"),
                               ("S3", "freestyle2"), ("S4", "acting3 freestyle1 rom3 walking2")):
        for sequence in sequences.split():
            touch_sequence(tmp_path, subject, sequence)
    names = {split: [f"{unit['subject']} {unit['sequence']}" for unit in ADAPTER.list_units(tmp_path, split)]
             for split in ("train", "validation", "test")}
    assert names == {
        "train": ["S1 acting1", "S1 acting2", "S1 freestyle1", "S1 rom1", "S1 rom3", "S1 walking1", "S1 walking3",
                  "S3 freestyle2"],
        "validation": [],
        "test": ["S1 acting3", "S1 freestyle3", "S1 walking2", "S4 acting3", "S4 walking2"]}


def test_files_are_found_at_other_depths_and_through_links(tmp_path):
    disk, raw_dir = tmp_path / "disk", tmp_path / "raw"
    touch_sequence(disk, "S1", "acting1", "{s}", "{s}/{q}/mattes", "{s}/{q}")
    touch_sequence(disk, "S2", "rom1", "video/all/{s}/{q}", "mattes", "vicon/positions/{S}/{q}")
    raw_dir.mkdir()
    (raw_dir / "copy").symlink_to(disk)
    first, second = ADAPTER.list_units(raw_dir, "train")
    assert first == {"subject": "S1", "sequence": "acting1", "camera": 1, "video": "copy/s1/TC_S1_acting1_cam1.mp4",
                     "matte": "copy/s1/acting1/mattes/TC_S1_acting1_cam1.mp4", "poses": "copy/s1/acting1/gt_skel_gbl_pos.txt"}
    assert second["matte"] == "copy/mattes/TC_S2_rom1_cam1.mp4"
    assert second["poses"] == "copy/vicon/positions/S2/rom1/gt_skel_gbl_pos.txt"


def test_missing_files_are_named_with_their_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no videos TC_S.*mp4 below .*video\. .*cvssp\.org/data/totalcapture"):
        ADAPTER.list_units(tmp_path, "train")
    write_sequence(tmp_path, offsets=(0,), cameras=(1,))
    (tmp_path / "calibration.cal").unlink()
    with pytest.raises(FileNotFoundError, match=r"calibration\.cal is missing\. .*cvssp\.org"):
        load_all(tmp_path)
    for folder in ("mattes", "vicon"):
        shutil.move(tmp_path / folder, tmp_path.parent / f"{tmp_path.name}_{folder}")
        with pytest.raises(FileNotFoundError, match=r"acting1_cam1\.mp4: there is no matte .* or no S1/acting1/gt_skel.*cvssp"):
            load_all(tmp_path)
        shutil.move(tmp_path.parent / f"{tmp_path.name}_{folder}", tmp_path / folder)


def test_nan_poses_are_reported_and_the_rest_goes_on(tmp_path):
    write_sequence(tmp_path, offsets=(0, 150, 300), cameras=(1,))
    path = tmp_path / "vicon" / "S1" / "acting1" / "gt_skel_gbl_pos.txt"
    lines = path.read_text().split("\n")
    lines[2] = "nan" + lines[2][lines[2].index(" "):]
    path.write_text("\n".join(lines))
    error, *examples = load_all(tmp_path)
    assert "gt_skel_gbl_pos.txt: frame 1 has nan" in str(error)
    assert [e.provenance["frame"] for e in examples] == [0, 2]


def test_broken_labels_are_named(tmp_path):
    write_sequence(tmp_path, cameras=(1,))
    path = tmp_path / "vicon" / "S1" / "acting1" / "gt_skel_gbl_pos.txt"
    text = path.read_text()
    path.write_text(text.replace("LeftFoot", "LeftToe"))
    with pytest.raises(ValueError, match=r"gt_skel_gbl_pos\.txt: the first line names Hips, .*LeftToe; expected Hips, Spine"):
        load_all(tmp_path)
    path.write_text(text.splitlines()[0] + "\n\n")
    with pytest.raises(ValueError, match=r"gt_skel_gbl_pos\.txt has no line below its first one"):
        load_all(tmp_path)
    path.write_text(text.rstrip().rpartition(" ")[0])
    with pytest.raises(ValueError, match=r"gt_skel_gbl_pos\.txt: frame 2 has 62 numbers, expected 63"):
        load_all(tmp_path)


def test_missing_and_broken_calibrations_are_named(tmp_path):
    write_sequence(tmp_path, cameras=(2,))
    path = tmp_path / "calibration.cal"
    write_calibration(path, num_cameras=1)
    with pytest.raises(ValueError, match=r"calibration\.cal: camera 2 has lines of \[\] numbers, expected \[4, 4, 1"):
        load_all(tmp_path)
    write_calibration(path)
    lines = path.read_text().splitlines()
    for limits in ("nan 639 0 879", "0 639 0 inf", "0 0 0 879"):
        path.write_text("\n".join([*lines[:8], limits, *lines[9:]]))
        with pytest.raises(ValueError, match=r"calibration\.cal: camera 2 has the limits \["):
            load_all(tmp_path)
    path.write_text("\n".join([*lines[:11], lines[12], lines[11], *lines[13:]]))  # two rows of the second rotation
    with pytest.raises(ValueError, match=r"calibration\.cal: camera 2: .*mirrors"):
        load_all(tmp_path)


def test_unreadable_video_is_reported_and_the_rest_goes_on(tmp_path):
    write_sequence(tmp_path, offsets=(0,))
    first, second = ADAPTER.list_units(tmp_path, "train")
    (tmp_path / first["video"]).write_bytes(b"\0" * 999)
    with pytest.raises(ValueError, match=r"TC_S1_acting1_cam1\.mp4 cannot be read as a video"):
        list(ADAPTER.load_unit(tmp_path, first))
    assert len(list(ADAPTER.load_unit(tmp_path, second))) == 1


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "totalcapture_21"
