"""The SAIL-VOS adapter on sequences in the authors' layout: pictures, numbers of visible objects, masks and bones as text."""

import pickle

import cv2
import numpy as np
import pytest

from datasets.adapters import sailvos
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset, decode_mask
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint

ADAPTER = sailvos.ADAPTER
SKELETON = load_skeleton("sailvos_26")
SEQUENCE = "ah_3a_ext"
ANNA, BERT, CAR = "12_Ped_anna", "7_Ped_bert_2", "3_Vehicle_car"
PLACES = {ANNA: (-0.8, 0.1, 3.8), BERT: (0.9, 0.0, 4.4)}  # m, before the camera
FOCAL = 1000.0  # px: 65 degrees
NUM_BONES = 350
GAME_M = np.array([-1523.25, 3210.5, 42.0])  # far from the game's origin
# Joint -> rows, numbered from 0, in the authors' order of joints.
ROWS = {"head_top": [341, 8], "neck": [61], "right_shoulder": [216, 234], "right_elbow": [171], "right_wrist": [164, 309],
        "left_shoulder": [255, 39], "left_elbow": [330], "left_wrist": [108], "right_hip": [45, 294],
        "right_knee": [215, 131, 253], "right_ankle": [295], "left_hip": [144, 315], "left_knee": [147, 342, 27],
        "left_ankle": [85], "spine": [152], "head": [206, 128, 102], "pelvis": [307, 312], "right_toe": [130],
        "left_toe": [11], "nose": [167, 188, 191, 310], "right_eye": [194, 193, 236, 78], "left_eye": [227, 304, 58, 229],
        "right_ear": [37, 260, 195], "left_ear": [47, 148, 232], "right_hand": [323], "left_hand": [160]}


def view(frame):
    """Rotation to the camera and position, m: z up, the camera turns, walks and looks down."""
    turn, pitch = 0.1 * frame, 0.12
    about_z = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    down = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return down @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]) @ about_z, np.add(GAME_M, (0.3 * frame, 0.1, 1.8))


def project_px(points):
    return FOCAL * points[:, :2] / points[:, 2:] + [640, 400]


def joints_camera(person, moved=0.0):
    """[26, 3] m, camera frame."""
    joints = body(SKELETON, np.add(PLACES[person], (moved, 0, 0)))
    joints[SKELETON.joint_names.index("nose")] += 0, 0.2, 0  # off the right hip
    return joints


def bones_camera(joints):
    """[350, 3] m: about their joints those that have one, the others anywhere near."""
    rng = np.random.default_rng(0)
    bones = joints.mean(axis=0) + rng.uniform(-0.6, 0.6, (NUM_BONES, 3))
    for joint, rows in zip(joints, ROWS.values(), strict=True):
        around = rng.uniform(-0.05, 0.05, (len(rows), 3))
        bones[rows] = joint + around - around.mean(axis=0)
    return bones


def world(points, frame):
    rotation, position = view(frame)
    return points @ rotation + position


def truth(person, frame, moved=0.0):
    """[26, 3] m, world of the game."""
    return world(joints_camera(person, moved), frame)


def write_bones(folder, frame, bones3d, bones2d):
    np.savetxt(folder / f"{frame:06d}_3d.txt", bones3d, fmt="%.6f")
    np.savetxt(folder / f"{frame:06d}_2d.txt", bones2d, fmt="%.6f")


def write_frame(raw_dir, frame=0, painted=ANNA, moved=0.0, people=(ANNA, BERT), hide=None, camera_file=False):
    """Anna on the left, Bert on the right, a car below; `hide` is the share of Anna, from the left, behind the car."""
    folder = raw_dir / SEQUENCE
    for name in ("images", "visible", CAR, *people):
        (folder / name).mkdir(parents=True, exist_ok=True)
    image, visible = gray_image(1280, 800), np.zeros((800, 1280), np.int32)
    boxes = {}
    for person in people:
        bones = bones_camera(joints_camera(person, moved))
        bones2d = project_px(bones)
        write_bones(folder / person, frame, world(bones, frame), bones2d)
        joints2d = project_px(joints_camera(person, moved))
        low, high = np.round(joints2d.min(axis=0) - 10).astype(int), np.round(joints2d.max(axis=0) + 10).astype(int)
        amodal = np.zeros((800, 1280), np.uint8)
        amodal[low[1]:high[1], low[0]:high[0]] = 255
        assert cv2.imwrite(str(folder / person / f"{frame:06d}.png"), amodal)
        visible[amodal > 0] = int(person.split("_")[0])
        if person == ANNA and hide:
            visible[low[1]:high[1], low[0]:low[0] + round(hide * (high[0] - low[0]))] = 3
        boxes[person] = low, high
        if person == painted:
            paint(image, joints2d)
    visible[790:, 400:500] = 3
    np.save(folder / "visible" / f"{frame:06d}.npy", visible)
    assert cv2.imwrite(str(folder / "images" / f"{frame:06d}.bmp"), image[..., ::-1])
    if camera_file:
        rotation, position = view(frame)
        opengl = np.column_stack([rotation, -rotation @ position]) * [[1], [-1], [-1]]  # y up, z backwards
        (folder / "camera").mkdir(exist_ok=True)
        (folder / "camera" / f"{frame}.yaml").write_text(
            f"K:\n- [{FOCAL}, 0.0, 0.0]\n- [0.0, {FOCAL}, 0.0]\n- [0.0, 0.0, 1.0]\n"
            "Rt:\n" + "".join(f"- {row}\n" for row in opengl.tolist()))
    return boxes


def load_all(raw_dir):
    return [item for unit in ADAPTER.list_units(raw_dir, "train") for item in ADAPTER.load_unit(raw_dir, unit)]


def keys_of(items):
    return [(item.provenance["frame"], item.provenance["person"]) for item in items]


def raise_item(item):
    if isinstance(item, ValueError):
        raise item


@pytest.mark.parametrize("camera_file", [False, True])
def test_prepared_joints_lie_on_their_dots(tmp_path, camera_file):
    if camera_file:
        pytest.importorskip("yaml")
    raw_dir, data_root = tmp_path / "raw", tmp_path / "data"
    write_frame(raw_dir, 0, ANNA, camera_file=camera_file)
    write_frame(raw_dir, 1, BERT, moved=0.2, camera_file=camera_file)
    manifest = prepare(ADAPTER, raw_dir, data_root, workers=1, progress=False)
    assert list(manifest["splits"]) == ["train"] and not manifest["skipped"] and manifest["skeleton"] == SKELETON.to_dict()
    dataset = PreparedDataset(data_root / "sailvos")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert keys_of(examples) == [(0, ANNA), (0, BERT), (1, ANNA), (1, BERT)]
    origin = (view(0)[1] + view(1)[1]) / 2
    for example, moved in ((examples[0], 0.0), (examples[3], 0.2)):
        check_crop(example, 1000 * (truth(example.provenance["person"], example.provenance["frame"], moved) - origin))
    assert examples[3].provenance == {"source": f"{SEQUENCE}/images/000001.bmp", "sequence": SEQUENCE, "frame": 1,
                                      "person": BERT}
    height, width = examples[0].decode_image().shape[:2]
    mask = decode_mask(examples[0].mask_rle, height, width)
    x, y, box_width, box_height = examples[0].bbox
    assert mask[int(y + box_height / 2), int(x + box_width / 2)] and not mask[3, 3]


def test_camera_boxes_and_masks(tmp_path):
    boxes = write_frame(tmp_path, hide=0.25)
    anna, bert = load_all(tmp_path)
    assert keys_of([anna, bert]) == [(0, ANNA), (0, BERT)]
    np.testing.assert_allclose(anna.camera.intrinsics, [[FOCAL, 0, 640], [0, FOCAL, 400], [0, 0, 1]], rtol=1e-4)
    rotation, _ = view(0)
    np.testing.assert_allclose(anna.camera.world_to_camera, np.block([[rotation, np.zeros((3, 1))], [0, 0, 0, 1]]), atol=0.5)
    np.testing.assert_allclose(anna.camera.up, rotation[:, 2], atol=1e-4)
    low, high = boxes[ANNA]
    hidden = round(0.25 * (high[0] - low[0]))
    np.testing.assert_array_equal(anna.bbox, [low[0] + hidden - 0.5, low[1] - 0.5, high[0] - low[0] - hidden, high[1] - low[1]])
    expected = np.zeros((800, 1280), bool)  # both of them, without the car and who is behind it
    for person, (low, high) in boxes.items():
        expected[low[1]:high[1], low[0] + (hidden if person == ANNA else 0):high[0]] = True
    np.testing.assert_array_equal(anna.mask, expected)
    np.testing.assert_array_equal(bert.mask, expected)


def test_camera_files_are_taken_where_there_are_any(tmp_path):
    pytest.importorskip("yaml")
    write_frame(tmp_path, 0, camera_file=True)
    write_frame(tmp_path, 1, moved=0.2, camera_file=True)
    folder = tmp_path / SEQUENCE / "camera"
    text = (folder / "0.yaml").read_text()
    (folder / "0.yaml").write_text(text.replace("[1000.0, 0.0, 0.0]", "[1000.0, 0.0, 1.25]"))  # as near as makes no error
    assert [item.camera.intrinsics[0, 2] for item in load_all(tmp_path)] == [641.25, 641.25, 640, 640]
    for changed, message in ((text.replace("K:", "P:"), r"camera/0\.yaml: expected K, 3 x 3, and Rt, 3 x 4; .*'K'"),
                             (text.replace("1000.0", "1100.0"), r"camera/0\.yaml: this camera sees the bones of .*"
                              r"12_Ped_anna/000000_3d\.txt .* px from where 000000_2d\.txt"),
                             (text.replace("1000.0", "none"), r"camera/0\.yaml: expected K")):
        (folder / "0.yaml").write_text(changed)
        items = load_all(tmp_path)
        assert [isinstance(item, ValueError) for item in items] == [True, True, False, False]
        with pytest.raises(ValueError, match=message):
            raise_item(items[0])
    (folder / "0.yaml").unlink()
    with pytest.raises(ValueError, match=r"camera has no file of frame 0\. Get SAIL-VOS"):
        raise_item(load_all(tmp_path)[0])


def test_each_person_is_sampled_by_movement_of_100_mm(tmp_path):
    # The camera stays at frame 0, so that people move as they are told.
    for frame, moved in enumerate((0.0, 0.06, 0.12, 0.12, 0.25)):
        write_frame(tmp_path, frame)
        for person in PLACES:
            bones = bones_camera(joints_camera(person, moved if person == ANNA else 0.0))
            bones2d = project_px(bones)
            write_bones(tmp_path / SEQUENCE / person, frame, world(bones, 0), bones2d)
    items = load_all(tmp_path)
    assert keys_of(items) == [(0, ANNA), (0, BERT), (2, ANNA), (4, ANNA)]  # all people of a frame follow one another


def test_missing_bones(tmp_path):
    write_frame(tmp_path, people=(BERT,))
    folder = tmp_path / SEQUENCE / BERT
    bones3d, bones2d = (np.loadtxt(folder / f"000000_{kind}.txt") for kind in ("3d", "2d"))
    bones3d[11] = 0  # the only one of the left toe
    bones3d[215] = 0  # one of three of the right knee
    bones3d[300] += 5  # wrong, but without a place in the image, as y alone says
    bones2d[300, 1] = -800
    bones2d[61] = -1280, 77
    bones2d[100:150] = -1280, -800
    write_bones(folder, 0, bones3d, bones2d)
    (example,) = load_all(tmp_path)
    # The camera is exact, so that none of the wrong places has been used.
    np.testing.assert_allclose(example.camera.intrinsics[0, 0], FOCAL, rtol=1e-4)
    names = list(SKELETON.joint_names)
    expected = 1000 * (truth(BERT, 0) - view(0)[1])
    knee = names.index("right_knee")
    expected[knee] = 1000 * (bones3d[[131, 253]].mean(axis=0) - view(0)[1])
    expected[names.index("left_toe")] = np.nan
    np.testing.assert_allclose(example.joints3d_world, expected, atol=0.5)


@pytest.mark.parametrize(("hide", "num_kept"), [(0.70, 2), (0.78, 1)])
def test_people_who_are_mostly_hidden_are_left_out(tmp_path, hide, num_kept):
    write_frame(tmp_path, moved=0.0, hide=hide)
    assert len(load_all(tmp_path)) == num_kept


def test_people_who_are_small_or_hardly_labelled_are_left_out(tmp_path):
    boxes = write_frame(tmp_path)
    path = tmp_path / SEQUENCE / "visible" / "000000.npy"
    visible = np.load(path)
    amodal_path = tmp_path / SEQUENCE / ANNA / "000000.png"
    (low, high), own = boxes[ANNA], visible == 12
    for width, is_kept in ((50, False), (51, True)):
        narrow = np.where(own, 0, visible)
        narrow[low[1]:high[1], low[0]:low[0] + width] = 12
        np.save(path, narrow)
        cv2.imwrite(str(amodal_path), np.uint8(255 * (narrow == 12)))
        assert len(load_all(tmp_path)) == 1 + is_kept
    folder = tmp_path / SEQUENCE / ANNA
    bones3d, bones2d = (np.loadtxt(folder / f"000000_{kind}.txt") for kind in ("3d", "2d"))
    joint_rows = [row for rows in ROWS.values() for row in rows]
    five_joints = [row for rows in list(ROWS.values())[5:] for row in rows]
    six_joints = [row for rows in list(ROWS.values())[6:] for row in rows]
    few_pairs = np.full_like(bones2d, -1280)
    few_pairs[:5] = bones2d[:5]
    for changed3d, changed2d, is_kept in (
            (np.where(np.isin(np.arange(350), six_joints)[:, None], 0, bones3d), bones2d, True),
            (np.where(np.isin(np.arange(350), five_joints)[:, None], 0, bones3d), bones2d, False),
            (bones3d, few_pairs, False),
            (np.where(np.isin(np.arange(350), joint_rows)[:, None], bones3d[61] + 0.02 * (bones3d - bones3d[61]), bones3d),
             np.where(np.isin(np.arange(350), joint_rows)[:, None], -1280, bones2d), False)):  # all joints within 5 cm
        write_bones(folder, 0, changed3d, changed2d)
        items = load_all(tmp_path)
        assert not any(isinstance(item, ValueError) for item in items) and len(items) == 1 + is_kept


def test_faults_are_reported_and_the_rest_is_read(tmp_path):
    for frame in range(6):
        write_frame(tmp_path, frame, moved=0.0)
    folder = tmp_path / SEQUENCE
    (folder / ANNA / "000000_2d.txt").unlink()
    bones2d = np.loadtxt(folder / ANNA / "000001_2d.txt")
    np.savetxt(folder / ANNA / "000001_2d.txt", bones2d[::-1])
    np.savetxt(folder / ANNA / "000002_2d.txt", bones2d[:-1])
    (folder / ANNA / "000003.png").unlink()
    cv2.imwrite(str(folder / ANNA / "000004.png"), np.zeros((800, 1280), np.uint8))
    (folder / "visible" / "000005.npy").write_bytes((folder / "visible" / "000005.npy").read_bytes()[:5000])
    items = load_all(tmp_path)
    faults = [str(item) for item in items if isinstance(item, ValueError)]
    for fault, message in zip(faults, [
            "12_Ped_anna/000000_2d.txt is missing. The human poses", "12_Ped_anna/000001_3d.txt: no camera sees the 350",
            "12_Ped_anna/000002_2d.txt has 349 rows, 000002_3d.txt 350", "12_Ped_anna/000003.png cannot be read",
            "12_Ped_anna/000004.png is empty, but visible/000004.npy", "visible/000005.npy cannot be read as a .npy file"],
            strict=True):
        assert message in fault
    # Both stay where they were before the camera, which moves by 300 mm from frame to frame.
    assert keys_of(item for item in items if not isinstance(item, ValueError)) == [(frame, BERT) for frame in range(5)]


@pytest.mark.parametrize(("content", "message"), [
    (np.zeros((800, 1279), np.int32), r"000000\.npy has shape \[800, 1279\] and type int32; expected"),
    (np.full((800, 1280), "7"), r"000000\.npy .* type <U1"),
    (np.full((2, 2), None), r"000000\.npy cannot be read"),  # objects: a pickle
])
def test_wrong_arrays_are_named(tmp_path, content, message):
    write_frame(tmp_path)
    np.save(tmp_path / SEQUENCE / "visible" / "000000.npy", content, allow_pickle=True)
    (item,) = load_all(tmp_path)
    with pytest.raises(ValueError, match=message):
        raise_item(item)


@pytest.mark.parametrize(("rows", "columns", "message"), [(342, 3, r"000000_3d\.txt: 342 rows of \[3\] numbers; expected 343"),
                                                          (350, 2, r"000000_3d\.txt: 350 rows of \[2\] numbers")])
def test_wrong_numbers_of_bones_are_named(tmp_path, rows, columns, message):
    write_frame(tmp_path)
    np.savetxt(tmp_path / SEQUENCE / ANNA / "000000_3d.txt", np.ones((rows, columns)))
    item, other = load_all(tmp_path)
    assert keys_of([other]) == [(0, BERT)]
    with pytest.raises(ValueError, match=message):
        raise_item(item)


@pytest.mark.parametrize(("suffix", "number"), [("3d", "nan"), ("2d", "1e999")])
def test_numbers_that_are_not_finite_are_named(tmp_path, suffix, number):
    write_frame(tmp_path)
    path = tmp_path / SEQUENCE / ANNA / f"000000_{suffix}.txt"
    lines = path.read_text().splitlines()
    lines[7] = lines[7].replace(lines[7].split()[0], number)
    path.write_text("\n".join(lines))
    item, other = load_all(tmp_path)
    assert keys_of([other]) == [(0, BERT)]
    with pytest.raises(ValueError, match=rf"000000_{suffix}\.txt: row 8 has nan or infinite numbers"):
        raise_item(item)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*/SEQUENCE/images\. Get .*https://sailvos"):
        ADAPTER.list_units(tmp_path, "train")
    write_frame(tmp_path, people=())
    with pytest.raises(FileNotFoundError, match=r"no file .*_3d\.txt\. The human poses .* ask the authors, https://sailvos"):
        ADAPTER.list_units(tmp_path, "train")


def test_sequences_with_people_are_the_training_split(tmp_path, caplog):
    write_frame(tmp_path)
    (tmp_path / "nobody" / "images").mkdir(parents=True)
    (tmp_path / SEQUENCE).rename(tmp_path / "fam_6_mcs_1")
    write_frame(tmp_path)
    assert ADAPTER.list_units(tmp_path, "train") == [SEQUENCE, "fam_6_mcs_1"]
    assert "1 of 3 sequences" in caplog.text and "nobody say, and are left out. The human poses" in caplog.text
    assert ADAPTER.list_units(tmp_path, "validation") == ADAPTER.list_units(tmp_path, "test") == []


def test_adapter_can_be_sent_to_a_worker():
    adapter = pickle.loads(pickle.dumps(ADAPTER))
    assert adapter.name == "sailvos" and adapter.detection_rule.unmatched == "drop"
