"""The CMU Panoptic adapter on sequences in the authors' layout: JSON files of bodies, lossless videos of painted people."""

import json
import logging
import pickle
import re

import cv2
import numpy as np
import pytest

from datasets.adapters import panoptic
from datasets.adapters.panoptic import MultiPersonSampler
from datasets.person_boxes import iou
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_video

ADAPTER = panoptic.ADAPTER
SKELETON = load_skeleton("coco_19")
NAMES = ["neck", "nose", "mid_hip", "left_shoulder", "left_elbow", "left_wrist", "left_hip", "left_knee", "left_ankle",
         "right_shoulder", "right_elbow", "right_wrist", "right_hip", "right_knee", "right_ankle", "left_eye", "left_ear",
         "right_eye", "right_ear"]  # in the order of the files
SEQUENCE = "171204_pose1"
CAMERAS = ("00_00", "00_07")
SMALL = (192, 108)
DISTORTION = [-0.2868, 0.1941, 0.0007, -0.0012, -0.0397]
PLACES = (-0.55, 0.1, 3.4), (0.6, 0.0, 3.9)  # of two people before the first camera, m


def rotation(camera):
    """[3, 3] from the world, y down, to the camera: tilted, and one turned to the side."""
    tilt, turn = np.radians([14, -12 * CAMERAS.index(camera)])
    return (np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
            @ np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]))


def translation_cm(camera):
    return np.array([[4.0, -21.0, 9.0], [70.0, -10.0, 40.0]][CAMERAS.index(camera)])


def intrinsics(size=(1920, 1080)):
    return np.array([[0.73, 0, 0.51], [0, 0.731, 0.27], [0, 0, 1 / size[0]]]) * size[0]


def to_world_cm(in_camera):
    """From metres in the axes of the first camera."""
    return (100 * np.asarray(in_camera) - translation_cm(CAMERAS[0])) @ rotation(CAMERAS[0])


def person_cm(person=0, shift=(0.0, 0.0, 0.0)):
    """[19, 3] world: one of two people, moved by so many metres in the first camera."""
    joints = body(SKELETON, np.add(PLACES[person], shift))
    joints[NAMES.index("nose"), 1] -= 0.8  # from where its dot would cover the pelvis'
    return to_world_cm(joints)


def pixels(joints_cm, camera):
    points, _ = cv2.projectPoints(np.float64(joints_cm), cv2.Rodrigues(rotation(camera))[0], translation_cm(camera),
                                  intrinsics(), np.array(DISTORTION))
    return points[:, 0]


def write_calibration(raw_dir, size=(1920, 1080), distortion=DISTORTION, **changes):
    """changes: entries of the HD cameras; None: without it."""
    tables = [{"name": "01_01", "type": "vga", "resolution": [640, 480], "panel": 1, "node": 1, "K": np.eye(3).tolist(),
               "distCoef": [0] * 5, "R": np.eye(3).tolist(), "t": [[0], [0], [0]]}]
    for camera in CAMERAS:
        table = {"name": camera, "type": "hd", "resolution": size, "panel": 0, "node": int(camera[3:]),
                 "K": intrinsics(size).tolist(), "distCoef": distortion, "R": rotation(camera).tolist(),
                 "t": translation_cm(camera)[:, None].tolist(), **changes}
        tables.append({key: value for key, value in table.items() if value is not None})
    (raw_dir / SEQUENCE).mkdir(parents=True, exist_ok=True)
    (raw_dir / SEQUENCE / f"calibration_{SEQUENCE}.json").write_text(json.dumps(
        {"calibDataSource": "170420", "cameras": tables}))


def labels_path(raw_dir, frame, nested=""):
    return raw_dir / SEQUENCE / "hdPose3d_stage1_coco19" / nested / f"body3DScene_{frame:08d}.json"


def write_bodies(raw_dir, frame, people_cm, confidences=None, nested=""):
    """One file. confidences: [19] by the index of a person."""
    rows = [np.column_stack([joints, (confidences or {}).get(i, np.full(19, 0.6))]) for i, joints in enumerate(people_cm)]
    bodies = [{"id": 7 - i, "joints19": row.ravel().tolist()} for i, row in enumerate(rows)]
    path = labels_path(raw_dir, frame, nested)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 0.7, "univTime": 33.4 * frame, "fpsType": "hd_29_97", "bodies": bodies}))


def write_small_video(raw_dir, count, camera="00_00"):
    """Frame i has the brightness i."""
    images = [np.full((*SMALL[::-1], 3), i, np.uint8) for i in range(count)]
    write_video(raw_dir / SEQUENCE / "hdVideos" / f"hd_{camera}.mp4", images, "FFV1", 29.97)


def load_all(raw_dir):
    return [item for unit in ADAPTER.list_units(raw_dir, "train") for item in ADAPTER.load_unit(raw_dir, unit)]


def test_prepared_joints_lie_on_their_dots(tmp_path):
    """Each camera has a picture of one of the two people painted, as dots of both would have the same colours."""
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    first, second, moved = person_cm(0), person_cm(1), person_cm(1, (0.12, 0, 0))
    write_calibration(raw_dir)
    labelled = [i for i, name in enumerate(NAMES) if name != "left_ear"]  # of the second person
    confidences = np.where(np.isin(range(19), labelled), 0.6, -1.0)
    write_bodies(raw_dir, 1, [first, second], {1: confidences})
    write_bodies(raw_dir, 2, [])
    write_bodies(raw_dir, 3, [moved, first], {0: confidences})  # in another order
    for camera, shown in zip(CAMERAS, ([first] * 4, [second[labelled]] * 3 + [moved[labelled]]), strict=True):
        images = [gray_image(1920, 1080) for _ in shown]
        for image, joints in zip(images, shown, strict=True):
            paint(image, pixels(joints, camera), radius=11)
        write_video(raw_dir / SEQUENCE / "hdVideos" / f"hd_{camera}.mp4", images, "FFV1", 29.97)
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert manifest["skeleton"] == SKELETON.to_dict() and not manifest["skipped"] and list(manifest["splits"]) == ["train"]
    dataset = PreparedDataset(data_root / "panoptic")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["camera"], e.provenance["frame"]) for e in examples] == [
        (camera, frame) for camera in CAMERAS for frame in (1, 1, 3)]
    check_crop(examples[0], 10 * first)
    for example, joints in ((examples[4], second), (examples[5], moved)):
        without_ear = 10 * joints
        without_ear[NAMES.index("left_ear")] = np.nan
        check_crop(example, without_ear, labelled)
    up = examples[5].world_to_camera[:3, :3] @ [0, -1, 0]
    assert abs(up[0]) < 1e-4 and up[1] < -0.9  # crops are upright
    assert examples[5].provenance == {"source": f"{SEQUENCE}/hdVideos/hd_00_07.mp4", "sequence": SEQUENCE, "camera": "00_07",
                                      "frame": 3}


def test_labels_one_folder_deeper(tmp_path):
    write_calibration(tmp_path, SMALL)
    write_bodies(tmp_path, 0, [person_cm()], nested="hd")
    write_small_video(tmp_path, 1)
    assert len(load_all(tmp_path)) == 1


def test_boxes_hold_the_projected_joints_and_end_at_the_border(tmp_path):
    write_calibration(tmp_path)
    cut = person_cm(1, (1.95, 0, 0))
    write_bodies(tmp_path, 0, [person_cm(0), cut])
    write_video(tmp_path / SEQUENCE / "hdVideos" / "hd_00_00.mp4", [gray_image(1920, 1080)], "FFV1", 29.97)
    boxes = [example.bbox for example in load_all(tmp_path)]
    for box, joints in zip(boxes, (person_cm(0), cut), strict=True):
        points = pixels(joints, "00_00")
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 0.125 * (high - low)
        expected = np.concatenate([low - margin, np.minimum(high + margin, [1919.5, 1079.5])])
        np.testing.assert_allclose([*box[:2], *(box[:2] + box[2:])], expected)
    assert high[0] > 1930 and boxes[0][0] > 0


def poses_mm(*offsets_mm):
    """[num_people, 19, 3]: people whose joints are all at one place, so far along x."""
    return np.tile(np.float64(offsets_mm)[:, None, None], (1, 19, 3)) * [1, 0, 0]


def moved_joints(pose, count, distance_mm):
    pose = pose.copy()
    pose[:count, 1] += distance_mm
    return pose


@pytest.mark.parametrize(("count", "distance_mm", "is_new"), [
    (3, 100, True), (3, 99.9, False), (2, 500, False), (19, 99, False)])
def test_poses_are_new_if_three_joints_have_moved_by_100_mm(count, distance_mm, is_new):
    sampler = MultiPersonSampler()
    poses = poses_mm(0, 3000)
    assert sampler.find_new(poses).tolist() == [True, True]
    assert sampler.find_new(poses).tolist() == [False, False]
    poses[1] = moved_joints(poses[1], count, distance_mm)
    assert sampler.find_new(poses).tolist() == [False, is_new]


def test_movement_counts_from_the_pose_kept_last():
    sampler = MultiPersonSampler()
    kept = [bool(sampler.find_new(poses_mm(offset))[0]) for offset in (0, 60, 120, 180, 240, 120)]
    assert kept == [True, False, True, False, True, True]


def test_people_are_assigned_by_the_least_sum_of_distances():
    sampler = MultiPersonSampler()
    sampler.find_new(poses_mm(0, 150))
    assert sampler.find_new(poses_mm(150, 0)).tolist() == [False, False]  # only their order has changed
    # The nearest pair first would be 90 and 150, with nothing but 0 left for 240.
    assert sampler.find_new(poses_mm(90, 240)).tolist() == [False, False]
    assert sampler.find_new(poses_mm(260, 70)).tolist() == [True, False]
    assert sampler.find_new(poses_mm(10, 1000, 240)).tolist() == [False, True, False]  # somebody comes
    assert sampler.find_new(poses_mm()).tolist() == []
    assert sampler.find_new(poses_mm(1000)).tolist() == [False]  # back, and nothing has changed
    assert sampler.find_new(poses_mm(0, 260, 1200)).tolist() == [False, False, True]


def test_people_are_assigned_by_the_mean_over_joints():
    sampler = MultiPersonSampler()
    sampler.find_new(poses_mm(0, 200))
    poses = poses_mm(40, 160)
    poses[0, 5, 0], poses[1, 5, 0] = 200, 0  # one joint of each is where the other's was
    assert sampler.find_new(poses).tolist() == [False, False]


def test_only_joints_labelled_in_both_poses_are_compared():
    sampler = MultiPersonSampler()
    poses = poses_mm(0)
    poses[0, :10] = np.nan
    assert sampler.find_new(poses).tolist() == [True]
    poses[0, :2] = 9000  # newly labelled ones are not movement
    poses[0, 10:12] += 500
    assert sampler.find_new(poses).tolist() == [False]
    poses[0, 12] += 500
    assert sampler.find_new(poses).tolist() == [True]
    upper, lower = poses_mm(0), poses_mm(0)
    upper[0, 8:] = lower[0, :6] = np.nan  # two joints in common: nothing shows that the person stands still
    sampler = MultiPersonSampler()
    assert [sampler.find_new(pose).tolist() for pose in (upper, lower, lower)] == [[True], [True], [False]]


def test_sampling_is_the_same_for_all_cameras_and_frames_are_those_of_the_files(tmp_path):
    write_calibration(tmp_path, SMALL)
    for frame, x in ((2, 0), (3, 0.06), (5, 0.12), (6, 0.12), (9, 0.3)):
        write_bodies(tmp_path, frame, [person_cm(0, (x, 0, 0))])
    for camera in CAMERAS:
        write_small_video(tmp_path, 10, camera)
    examples = load_all(tmp_path)
    assert [(e.provenance["camera"], e.provenance["frame"], e.image.mean()) for e in examples] == [
        (camera, frame, frame) for camera in CAMERAS for frame in (2, 5, 9)]


def test_confidence_and_number_of_joints(tmp_path):
    """Joints need more than 0.1, people six of those."""
    write_calibration(tmp_path, SMALL)
    few, enough = np.full(19, 0.1), np.full(19, 0.1)
    few[:5], enough[:6] = 0.11, 0.11
    write_bodies(tmp_path, 0, [person_cm(0), person_cm(1)], {0: few, 1: enough})
    write_small_video(tmp_path, 1)
    (example,) = load_all(tmp_path)
    np.testing.assert_allclose(example.joints3d_world[:6], 10 * person_cm(1)[:6])
    assert np.isnan(example.joints3d_world[6:]).all()


def test_six_joints_must_be_in_the_picture(tmp_path):
    write_calibration(tmp_path, SMALL, distortion=[0] * 5)
    people = []
    for num_inside in (5, 6):  # at 3 m, the border is 2.01 m to the right: (191.5 - 97.92) / 140.16 x 3
        x = np.where(np.arange(19) < num_inside, 1.9, 2.1)
        people.append(to_world_cm(np.column_stack([x, np.linspace(-0.5, 0.5, 19), np.full(19, 3.0)])))
    write_bodies(tmp_path, 0, people)
    write_small_video(tmp_path, 1)
    (example,) = load_all(tmp_path)
    np.testing.assert_allclose(example.joints3d_world, 10 * people[1])


def test_people_beyond_the_range_of_the_lens_model_are_not_in_view(tmp_path):
    """The radial polynomial images a point 64 degrees off the axis at a radius of 0.22, in the middle of the picture."""
    write_calibration(tmp_path, SMALL)
    far = 0.05 * body(SKELETON, (0.0, 0.0, 0.0)) + [2.1, 0.0, 1.0]
    seen = pixels(to_world_cm(far), "00_00") / 10
    assert ((seen > 0) & (seen < SMALL)).all(axis=1).sum() >= 6
    write_bodies(tmp_path, 0, [to_world_cm(far), person_cm(1)])
    write_small_video(tmp_path, 1)
    (example,) = load_all(tmp_path)
    np.testing.assert_allclose(example.joints3d_world, 10 * person_cm(1))


def test_detections_replace_boxes_and_people_without_one_are_left_out(tmp_path):
    raw_dir = tmp_path / "raw"
    write_calibration(raw_dir, SMALL)
    write_bodies(raw_dir, 0, [person_cm(0), person_cm(1)])
    write_bodies(raw_dir, 1, [person_cm(0, (0.2, 0, 0)), person_cm(1, (0.2, 0, 0))])
    write_small_video(raw_dir, 2)
    boxes = [example.bbox for example in load_all(raw_dir)]
    results = []
    for frame, box, factor in ((0, boxes[0], 0.9), (1, boxes[2], 2.1), (1, boxes[3], 1.9)):  # of the box's area
        width = factor * box[2]
        results.append({"file_name": f"{SEQUENCE}/hdVideos/hd_00_00.mp4#{frame}", "category_id": 1, "score": 0.9,
                        "bbox": [box[0] + 0.5, box[1] + 0.5, width, box[3]]})
    (tmp_path / "boxes.json").write_text(json.dumps(results))
    manifest = prepare(ADAPTER, raw_dir, tmp_path / "data", detections=tmp_path / "boxes.json", workers=1, progress=False)
    assert manifest["detector_results"] == {"images": 2, "images_with_detections": 2, "people": 4, "people_matched": 2,
                                            "people_dropped": 2}
    assert ADAPTER.detection_rule.take == "detection" and ADAPTER.detection_rule.min_iou == 0.1


def test_people_who_stand_still_keep_their_detections(tmp_path):
    """In frame 1 only one person has moved, before the other; the only detection is that of the other."""
    raw_dir = tmp_path / "raw"
    write_calibration(raw_dir, SMALL)
    write_bodies(raw_dir, 0, [person_cm(0), person_cm(1)])
    write_bodies(raw_dir, 1, [person_cm(0, (1.0, 0, 0.1)), person_cm(1)])
    write_small_video(raw_dir, 2)
    first, still, moved = load_all(raw_dir)
    assert [example.provenance["frame"] for example in (first, still, moved)] == [0, 0, 1]
    assert len(first.bystanders) == len(still.bystanders) == 0
    np.testing.assert_array_equal(moved.bystanders, [still.bbox])
    (tmp_path / "boxes.json").write_text(json.dumps([
        {"file_name": f"{SEQUENCE}/hdVideos/hd_00_00.mp4#{frame}", "category_id": 1, "score": 0.9,
         "bbox": [*still.bbox[:2] + 0.5, *still.bbox[2:]]} for frame in (0, 1)]))
    manifest = prepare(ADAPTER, raw_dir, tmp_path / "data", detections=tmp_path / "boxes.json", workers=1, progress=False)
    assert manifest["detector_results"] == {"images": 2, "images_with_detections": 2, "people": 3, "people_matched": 1,
                                            "people_dropped": 2}
    assert iou(moved.bbox, still.bbox) > ADAPTER.detection_rule.min_iou


def test_units_are_the_videos_of_the_known_sequences(tmp_path, caplog):
    assert len(set(panoptic.SEQUENCES)) == 66
    for sequence, cameras in (("171204_pose3", (19, 20, 21)), ("160906_band3", (3, 30)), ("160422_haggling1", (20,)),
                              ("171026_pose1", (20,)), ("150821_dance1", (0,))):
        folder = tmp_path / sequence / "hdVideos"
        folder.mkdir(parents=True)
        for camera in cameras:
            (folder / f"hd_00_{camera:02d}.mp4").touch()
    (tmp_path / "171026_pose1" / "hdVideos" / "hd_00_20_old.mp4").touch()
    with caplog.at_level(logging.WARNING):
        units = ADAPTER.list_units(tmp_path, "train")
    assert sorted((unit["sequence"], unit["camera"]) for unit in units) == [
        ("160906_band3", "00_30"), ("171026_pose1", "00_20"), ("171204_pose3", "00_19"), ("171204_pose3", "00_21")]
    assert "panoptic, train: no videos of 63 of 66 sequences, 160224_haggling1, say" in caplog.text
    assert ADAPTER.list_units(tmp_path, "validation") == ADAPTER.list_units(tmp_path, "test") == []


def test_unreadable_labels_are_reported_and_the_rest_goes_on(tmp_path):
    write_calibration(tmp_path, SMALL)
    for frame in range(8):
        write_bodies(tmp_path, frame, [person_cm(0, (0.2 * frame, 0, 0))])
    write_bodies(tmp_path, 6, [1e300 * person_cm()])
    for frame, content in ((0, '{"bodies": ['), (1, '{"bodies": [{"id": 1, "joints19": [1, 2, 3]}]}'), (2, '{"version": 1}'),
                           (4, '{"bodies": [{"id": 1}]}'), (5, json.dumps({"bodies": [{"joints19": [10**400] * 76}]}))):
        labels_path(tmp_path, frame).write_text(content)
    labels_path(tmp_path, 0).with_name("body3DScene_copy.json").touch()
    write_small_video(tmp_path, 8)
    *errors, first, second = load_all(tmp_path)
    assert [re.search(r"body3DScene_0000000(\d)\.json", str(error))[1] for error in errors] == ["0", "1", "2", "4", "5", "6"]
    assert all(isinstance(error, ValueError) for error in errors)
    assert "76 numbers joints19" in str(errors[1]) and "not valid JSON" in str(errors[0])
    assert [first.provenance["frame"], second.provenance["frame"]] == [3, 7]


def test_nan_coordinates_are_missing(tmp_path):
    write_calibration(tmp_path, SMALL)
    joints = person_cm(0)
    joints[4, 1] = np.nan
    write_bodies(tmp_path, 0, [joints])
    write_small_video(tmp_path, 1)
    (example,) = load_all(tmp_path)
    assert np.flatnonzero(np.isnan(example.joints3d_world).all(axis=1)).tolist() == [4]


def test_short_and_unreadable_videos_are_errors(tmp_path):
    write_calibration(tmp_path, SMALL)
    for frame in range(4):
        write_bodies(tmp_path, frame, [person_cm(0, (0.2 * frame, 0, 0))])
    write_small_video(tmp_path, 2)
    items = ADAPTER.load_unit(tmp_path, ADAPTER.list_units(tmp_path, "train")[0])
    assert [next(items).provenance["frame"] for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match=r"hd_00_00\.mp4: frame 2 cannot be decoded: the video ends after 2 frames"):
        next(items)
    (tmp_path / SEQUENCE / "hdVideos" / "hd_00_00.mp4").write_bytes(b"\0" * 999)
    with pytest.raises(ValueError, match=r"hd_00_00\.mp4 cannot be read as a video"):
        load_all(tmp_path)


def test_frames_of_another_size_than_calibrated_are_an_error(tmp_path):
    write_calibration(tmp_path)
    write_bodies(tmp_path, 0, [person_cm(0)])
    write_small_video(tmp_path, 1)
    with pytest.raises(ValueError, match=r"hd_00_00\.mp4 has 192 x 108 px, its camera is calibrated for 1920 x 1080"):
        load_all(tmp_path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"name": "00_05"}, r"camera 00_00: expected one table of that name"), ({"K": None}, r"camera 00_00: .*KeyError\('K'\)"),
    ({"resolution": [1920]}, r"camera 00_00: expected one table"),
    ({"resolution": [1920, float("inf")]}, r"camera 00_00: expected one table"),
    ({"t": [1, 2]}, r"camera 00_00: translation: expected 3")])
def test_calibrations_must_be_whole(tmp_path, changes, message):
    write_calibration(tmp_path, SMALL, **changes)
    write_bodies(tmp_path, 0, [person_cm(0)])
    write_small_video(tmp_path, 1)
    with pytest.raises(ValueError, match=rf"calibration_{SEQUENCE}\.json: {message}"):
        load_all(tmp_path)


def test_missing_files_are_named_with_their_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*SEQUENCE/hdVideos/hd_00_\*\.mp4 of 66 sequences, 160224_haggling1, .*http://domedb"):
        ADAPTER.list_units(tmp_path, "train")
    write_calibration(tmp_path, SMALL)
    write_small_video(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match=r"no files body3DScene_\(8 digits\)\.json in .*_coco19, .*coco19\.tar"):
        load_all(tmp_path)
    (tmp_path / SEQUENCE / f"calibration_{SEQUENCE}.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"calibration_{SEQUENCE}\.json is missing\. Get HD videos"):
        load_all(tmp_path)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).label_skeleton(None) == "coco_19"


def test_real_bodies_stand_upright_before_the_real_cameras(real_samples):
    folder = real_samples / "cmu_panoptic" / "160906_band1"
    poses = panoptic.read_poses(folder / "hdPose3d_stage1_coco19" / "body3DScene_00000168.json")
    assert poses.shape == (3, 19, 3)
    joint = {name: poses[:, SKELETON.index(name)] for name in
             ("neck", "pelvis", "nose", "left_shoulder", "right_shoulder", "left_hip", "left_knee")}
    assert (np.abs(np.linalg.norm(joint["left_hip"] - joint["left_knee"], axis=1) - 420) < 90).all()  # thighs, mm
    assert (joint["pelvis"] - joint["neck"])[:, 1].min() > 200  # down is +y, also of one who bends over
    # Left is left: it lies to the left of where people look, seen from above (y down).
    left, forward = joint["left_shoulder"] - joint["right_shoulder"], joint["nose"] - joint["neck"]
    assert (left[:, 0] * forward[:, 2] - left[:, 2] * forward[:, 0] < 0).all()
    cameras = [panoptic.read_camera(folder / "calibration_160906_band1.json", f"00_{i:02d}") for i in range(31)]
    assert {size for _, size in cameras} == {(1920, 1080)}
    centers = np.array([-camera.world_to_camera[:3, :3].T @ camera.world_to_camera[:3, 3] for camera, _ in cameras])
    # The cameras hang on the inside of a dome of 5.5 m across, all above the floor (y = 0) and most above people's heads.
    assert (np.abs(np.linalg.norm(centers[:, [0, 2]], axis=1) - 2400) < 700).all() and (centers[:, 1] < 100).all()
    num_views = [sum(panoptic._visible_box(pose, *camera) is not None for camera in cameras) for pose in poses]
    assert min(num_views) >= 15
