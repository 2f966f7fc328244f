"""MuCo-3DHP made of videos in MPI-INF-3DHP's layout, of painted people before and behind each other; and as its authors'
scripts make it, the table in MATLAB 7.3."""

import pickle

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from datasets import muco_compositing
from datasets.adapters import muco_3dhp
from datasets.prepare import prepare
from posepile.data.records import PreparedDataset
from posepile.geometry.camera import Camera, project, transform
from posepile.geometry.skeleton import load_skeleton
from tests.datasets.adapters.painted_people import body, check_crop, gray_image, paint, write_jpeg, write_video

ADAPTER = muco_3dhp.ADAPTER
SKELETON = load_skeleton("mpi_inf_3dhp_28")
RAW_JOINTS = ["spine3", "spine4", "spine2", "spine", "pelvis", "neck", "head", "head_top", "left_clavicle", "left_shoulder",
              "left_elbow", "left_wrist", "left_hand", "right_clavicle", "right_shoulder", "right_elbow", "right_wrist",
              "right_hand", "left_hip", "left_knee", "left_ankle", "left_foot", "left_toe", "right_hip", "right_knee",
              "right_ankle", "right_foot", "right_toe"]
SIDE, NUM_FRAMES, CAMERA = 640, 12, 2
INTRINSICS = np.array([[700.0, 0, 322], [0, 702, 318], [0, 0, 1]])
WORLD_TO_CAMERA = np.array([[0, 0, -1, 300.0], [0, -1, 0, 1200], [-1, 0, 0, 2500], [0, 0, 0, 1]])  # y up
PLACES = {1: (-0.35, 0.0, 2.6), 2: (0.25, 0.05, 3.2), 3: (-0.54, -0.05, 4.2), 4: (1.2, 0.0, 4.8)}  # the third behind the first
CHAIR = slice(380, 500), slice(500, 560)  # rows and columns of the second person's chair


def truth(subject, frame):
    """[28, 3] mm, camera frame; the first person moves by 10 mm a frame."""
    return 1000 * body(SKELETON, np.add(PLACES[subject], (0.01 * frame * (subject == 1), 0, 0)))


def silhouette(subject, frame):
    """[h, w] bool: the person without the chair."""
    hull = cv2.convexHull(np.int32(np.round(project(truth(subject, frame), INTRINSICS))))
    mask = cv2.fillConvexPoly(np.zeros((SIDE, SIDE), np.uint8), hull, 1)
    mask = cv2.dilate(mask, np.ones((9, 9), np.uint8)).astype(bool)
    if subject == 2:
        mask[CHAIR] = False
    return mask


def with_chair(subject, mask):
    if subject == 2:
        mask = mask.copy()
        mask[CHAIR] = True
    return mask


def tone(subject):
    return 100 + 20 * subject


def write_labels(raw_dir, subject):
    """Returns: the folder of the sequence."""
    folder = raw_dir / f"S{subject}" / "Seq1"
    folder.mkdir(parents=True)
    raw = [SKELETON.joint_names.index(name) for name in RAW_JOINTS]
    joints3d = np.array([truth(subject, frame)[raw] for frame in range(NUM_FRAMES)])
    cells = {name: np.empty((14, 1), object) for name in ("annot2", "annot3", "univ_annot3")}
    for camera in range(14):
        cells["annot2"][camera, 0] = project(joints3d, INTRINSICS).reshape(-1, 56)
        cells["annot3"][camera, 0], cells["univ_annot3"][camera, 0] = (f * joints3d.reshape(-1, 84) for f in (1.0, 0.9))
    scipy.io.savemat(folder / "annot.mat", {**cells, "frames": np.arange(NUM_FRAMES)[:, None], "cameras": np.arange(14)[None]})
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = INTRINSICS
    lines = ["Skeletool Camera Calibration File V1.0"]
    for camera in range(14):
        lines += [f"name          {camera}", "  sensor      10 10", f"  size        {SIDE} {SIDE}", "  animated    0",
                  f"  intrinsic   {' '.join(map(str, intrinsic.ravel()))} ",
                  f"  extrinsic   {' '.join(map(str, WORLD_TO_CAMERA.ravel()))} ", "  radial      0"]
    (folder / "camera.calibration").write_text("\n".join(lines) + "\n")
    return folder


def write_sequence(raw_dir, subject):
    folder = write_labels(raw_dir, subject)
    images, foregrounds, chairs = [], [], []
    for frame in range(NUM_FRAMES):
        image, mask = gray_image(SIDE, SIDE), silhouette(subject, frame)
        image[...] = 10 * subject
        image[with_chair(subject, mask)] = 220
        image[mask] = tone(subject)
        if subject == 1:
            paint(image, project(truth(subject, frame), INTRINSICS), radius=5)
        images.append(image)
        foregrounds.append(np.where(with_chair(subject, mask)[..., None], np.uint8([255, 90, 0]), np.uint8([60, 0, 0])))
        chairs.append(np.where(with_chair(subject, mask) & ~mask, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2))
    write_video(folder / "imageSequence" / f"video_{CAMERA}.avi", images, "FFV1", 25)
    write_video(folder / "FGmasks" / f"video_{CAMERA}.avi", foregrounds, "FFV1", 25)
    if subject == 2:
        write_video(folder / "ChairMasks" / f"video_{CAMERA}.avi", chairs, "FFV1", 25)


@pytest.fixture(name="raw_dir", scope="module")
def make_raw_dir(tmp_path_factory):
    """Four sequences of one moving and three standing people; not to be written to."""
    raw_dir = tmp_path_factory.mktemp("mpi_inf_3dhp")
    for subject in PLACES:
        write_sequence(raw_dir, subject)
    return raw_dir


@pytest.fixture(autouse=True)
def one_picture(monkeypatch):
    """One part, one picture, of the colours of the videos; they have 12 frames, of which the first 8 are left out."""
    for name, value in (("NUM_PARTS", 1), ("COMPOSITES_PER_PART", 1), ("FIRST_FRAME", 8), ("GAMMA", (1.0, 1.0))):
        monkeypatch.setattr(muco_compositing, name, value)


def load_one(raw_dir):
    (unit,) = ADAPTER.list_units(raw_dir, "train")
    return list(ADAPTER.load_unit(raw_dir, unit))


def test_prepared_joints_lie_on_their_dots(raw_dir, tmp_path):
    manifest = prepare(ADAPTER, raw_dir, tmp_path, workers=1, progress=False)
    assert list(manifest["splits"]) == ["train"] and not manifest["skipped"] and manifest["skeleton"] == SKELETON.to_dict()
    dataset = PreparedDataset(tmp_path / "muco_3dhp")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    # From near to far; the third is hidden behind the first.
    assert [e.provenance["subject"] for e in examples] == ["S1", "S2", "S4"]
    frame = examples[0].provenance["frame"]
    assert examples[0].provenance == {"subject": "S1", "sequence": "S1/Seq1", "camera": CAMERA, "frame": frame, "composite": 2}
    check_crop(examples[0], transform(truth(1, frame), np.linalg.inv(WORLD_TO_CAMERA)))


def test_nearer_people_and_chairs_cover_the_others(raw_dir):
    examples = load_one(raw_dir)
    frames = {e.provenance["subject"]: e.provenance["frame"] for e in examples}
    expected = np.full((SIDE, SIDE), 40)  # the background is that of the furthest person's picture
    people = {}
    for subject in (4, 3, 2, 1):
        people[subject] = silhouette(subject, frames.get(f"S{subject}", 0))
        expected[with_chair(subject, people[subject])] = 220
        expected[people[subject]] = tone(subject)
    image = examples[0].image
    is_gray = np.ptp(image.astype(int), axis=2) < 4  # away from the dots
    difference = np.abs(image[..., 1].astype(int) - expected)[is_gray]
    assert (difference < 12).mean() > 0.99 and is_gray.mean() > 0.9  # frames are kept as JPEG: edges differ
    assert all(e.image is image for e in examples)
    everything = np.any([with_chair(subject, mask) for subject, mask in people.items()], axis=0)
    for example in examples:
        np.testing.assert_array_equal(example.mask, everything)
    visible = people[2] & ~people[1]
    assert visible.sum() < people[2].sum()  # the first does cover the second
    rows, columns = np.nonzero(visible)
    x, y, width, height = examples[1].bbox
    np.testing.assert_allclose([x, x + width], [columns.min() - 0.5, columns.max() + 0.5])
    joints2d = project(truth(2, 0), INTRINSICS)[:, 1]
    middle, half = np.ptp(joints2d) / 2 + joints2d.min(), 1.05 * np.ptp(joints2d) / 2  # the joints' box is 5% larger
    np.testing.assert_allclose([y, y + height], [max(rows.min() - 0.5, middle - half), min(rows.max() + 0.5, middle + half)])


def actor_of_box(depth, rows, columns):
    """Someone whose joints span rows 200..400 and columns 100..300 of the picture; the mask is a rectangle."""
    joints2d = np.full((28, 2), 250.0)
    joints2d[:2] = [[100, 200], [300, 400]]
    rays = np.concatenate([joints2d, np.ones((28, 1))], axis=1) @ np.linalg.inv(INTRINSICS).T
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[rows, columns] = muco_compositing._PERSON
    jpeg, png = (cv2.imencode(suffix, image)[1] for suffix, image in ((".jpg", gray_image(SIDE, SIDE)), (".png", mask)))
    return muco_compositing.Actor(Camera(INTRINSICS), depth * rays, jpeg, png, {"depth": depth})


def test_boxes_end_with_the_joints_above_and_below_and_with_the_visible_at_the_sides():
    person, left_part = actor_of_box(3000, slice(150, 450), slice(90, 330)), slice(0, 200)
    (example,) = muco_compositing.composite([person], 1.0, 0)
    np.testing.assert_allclose(example.bbox, [89.5, 195, 240, 210])  # 5% more than the joints' 200 px
    _, behind = muco_compositing.composite([person, actor_of_box(2000, slice(0, 640), left_part)], 1.0, 0)
    assert behind.provenance["depth"] == 3000
    np.testing.assert_allclose(behind.bbox, [199.5, 195, 130, 210])


@pytest.mark.parametrize(("num_visible_columns", "is_kept"), [(24, True), (18, False)])
def test_people_of_whom_less_than_a_tenth_shows_are_left_out(num_visible_columns, is_kept):
    """The joints' box, 95..305, is 210 px wide: 21 columns are a tenth of it."""
    person = actor_of_box(3000, slice(190, 410), slice(95, 305))
    nearer = actor_of_box(2000, slice(0, 640), slice(95 + num_visible_columns, 400))
    assert [e.provenance["depth"] for e in muco_compositing.composite([person, nearer], 1.0, 0)] == [2000] + [3000] * is_kept


def test_pictures_are_brightened_between_the_bounds(raw_dir, monkeypatch):
    plain = load_one(raw_dir)[0].image
    monkeypatch.setattr(muco_compositing, "GAMMA", (0.7, 0.8))
    bright = load_one(raw_dir)[0].image
    assert len({int(bright[y, x, 0]) for y, x in np.argwhere(plain[..., 0] == 40)}) == 1  # one gamma for all of it
    y, x = np.argwhere(plain[..., 0] == 40)[0]
    assert 255 * (40 / 255) ** 0.8 - 0.5 <= bright[y, x, 0] <= 255 * (40 / 255) ** 0.7 + 0.5


def test_the_same_seed_gives_the_same_pictures_and_another_unit_others(raw_dir, monkeypatch):
    monkeypatch.setattr(muco_compositing, "COMPOSITES_PER_PART", 2)
    monkeypatch.setattr(muco_compositing, "PEOPLE_PER_COMPOSITE", 2)

    def draw():
        return [(e.provenance["composite"], e.provenance["subject"], e.bbox.tolist(), int(e.image.sum()))
                for e in load_one(raw_dir)]

    first = draw()
    assert first == draw() and {row[0] for row in first} == {4, 5}  # of camera 2, part 0 of 1, two pictures each
    assert len({row[3] for row in first}) == 2


def frames_of(joints3d, part=0, seed=0):
    return muco_compositing._choose_frames(joints3d, part, np.random.default_rng(seed))


def test_frames_after_movement_are_drawn_from_the_own_part(monkeypatch):
    monkeypatch.setattr(muco_compositing, "FIRST_FRAME", 180)
    monkeypatch.setattr(muco_compositing, "NUM_PARTS", 2)
    joints3d = np.zeros((1180, 28, 3))
    joints3d[:, 3, 0] = 17.5 * np.arange(1180)  # one joint moves by 175 mm in 10 frames
    shifts = set()
    for seed in range(60):
        frames = np.array(frames_of(joints3d, 0, seed))
        assert len(frames) == 24 and frames.min() >= 180 - 25 and frames.max() < 680 + 25
        assert len(set(frames % 10)) == 1  # one shift for all
        shifts.add(int(frames.min()) % 10)
    assert shifts == set(range(10))
    later = frames_of(joints3d, 1)
    assert min(later) >= 680 - 25 and max(later) == max(np.clip(later, 0, 1179))
    monkeypatch.setattr(muco_compositing, "MAX_FRAME_SHIFT", 0)
    monkeypatch.setattr(muco_compositing, "FRAMES_PER_VIDEO", 1000)
    assert frames_of(joints3d, 0) == list(range(180, 680, 10)) and frames_of(joints3d, 1) == list(range(680, 1180, 10))
    assert frames_of(joints3d[:180], 0) == []


def test_units_are_parts_of_the_cameras_that_have_masks(raw_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(muco_compositing, "NUM_PARTS", 2)
    assert ADAPTER.list_units(raw_dir, "train") == [{"camera": 2, "part": 0}, {"camera": 2, "part": 1}]
    assert ADAPTER.list_units(raw_dir, "validation") == ADAPTER.list_units(raw_dir, "test") == []
    for camera in (5, 11):  # cameras from 11 on take no part
        for kind in ("imageSequence", "FGmasks"):
            (tmp_path / "S8" / "Seq2" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "S8" / "Seq2" / kind / f"video_{camera}.avi").touch()
    assert {unit["camera"] for unit in ADAPTER.list_units(tmp_path, "train")} == {5}
    (tmp_path / "S8" / "Seq2" / "FGmasks" / "video_5.avi").unlink()
    with pytest.raises(FileNotFoundError, match=r"FGmasks/video_\*\.avi\. MuCo-3DHP is made of .* https://vcai"):
        ADAPTER.list_units(tmp_path, "train")


def test_too_few_people_are_an_error(tmp_path):
    write_sequence(tmp_path, 1)
    with pytest.raises(ValueError, match=r"camera 2, part 0 .* has 1 usable frames; expected 4 or more"):
        load_one(tmp_path)


def write_composite_info(raw_dir, rows):
    """`rows`: per picture, four times subject, sequence, camera, frame. Cells in a cell, the transposed of MATLAB's shape."""
    with h5py.File(raw_dir / "sampled_dataset_info.mat", "w") as file:
        def store(name, array, matlab_class):
            dataset = file.create_dataset(name, data=array)
            dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
            return dataset

        table = np.empty((4, len(rows)), h5py.ref_dtype)
        for number, row in enumerate(rows):
            for person, source in enumerate(row):
                parts = [np.float64(source)[:, None], np.zeros((4, 1)), *[np.zeros((21, n)) for n in (2, 3, 3, 3)]]
                cells = [store(f"#refs#/{number}_{person}_{i}", part, "double").ref for i, part in enumerate(parts)]
                cell = store(f"#refs#/{number}_{person}", np.array(cells, h5py.ref_dtype)[:, None], "cell")
                table[person, number] = cell.ref
        store("composite_info", table, "cell")


@pytest.fixture(name="made_dir")
def make_scripts_output(tmp_path):
    """Three rows, of which the second has no picture. In the first picture the second person is painted, in the third the
    first, who is in two frames."""
    raw_dir = tmp_path / "muco"
    for subject in PLACES:
        write_labels(raw_dir, subject)
    rows = [[(2, 1, CAMERA, 0), (1, 1, CAMERA, 3), (3, 1, CAMERA, 1), (4, 1, CAMERA, 5)], [(1, 1, CAMERA, 1)] * 4,
            [(1, 1, CAMERA, 5), (2, 1, CAMERA, 5), (3, 1, CAMERA, 5), (4, 1, CAMERA, 5)]]
    write_composite_info(raw_dir, rows)
    for number, frame in ((1, 3), (3, 5)):
        image = gray_image(SIDE, SIDE)
        paint(image, project(truth(1, frame), INTRINSICS), radius=5)
        write_jpeg(raw_dir / "unaugmented_set_001" / f"{number:06d}.jpg", image)
    return raw_dir


def test_pictures_of_the_scripts_are_read_where_there_are_some(made_dir, tmp_path):
    assert ADAPTER.list_units(made_dir, "train") == [{"first": 1, "last": 3}] and ADAPTER.list_units(made_dir, "test") == []
    prepare(ADAPTER, made_dir, tmp_path / "data", workers=1, progress=False)
    dataset = PreparedDataset(tmp_path / "data" / "muco_3dhp")
    examples = [dataset.read("train", i) for i in range(dataset.num_examples("train"))]
    assert [(e.provenance["composite"], e.provenance["subject"], e.provenance["frame"]) for e in examples] == [
        (1, "S2", 0), (1, "S1", 3), (1, "S3", 1), (1, "S4", 5), (3, "S1", 5), (3, "S2", 5), (3, "S3", 5), (3, "S4", 5)]
    assert examples[1].provenance["source"] == "unaugmented_set_001/000001.jpg"
    assert examples[1].provenance["sequence"] == "S1/Seq1" and examples[1].provenance["camera"] == CAMERA
    for example, frame in ((examples[1], 3), (examples[4], 5)):
        check_crop(example, transform(truth(1, frame), np.linalg.inv(WORLD_TO_CAMERA)))


def test_units_of_pictures_end_before_number_200000(made_dir, monkeypatch):
    monkeypatch.setattr(muco_3dhp, "PICTURES_PER_UNIT", 2)
    assert ADAPTER.list_units(made_dir, "train") == [{"first": 1, "last": 2}, {"first": 3, "last": 3}]
    assert [e.provenance["composite"] for unit in ADAPTER.list_units(made_dir, "train")
            for e in ADAPTER.load_unit(made_dir, unit)] == [1] * 4 + [3] * 4
    assert muco_3dhp.MAX_NUMBER == 200_000
    monkeypatch.setattr(muco_3dhp, "MAX_NUMBER", 3)
    assert ADAPTER.list_units(made_dir, "train") == [{"first": 1, "last": 2}]


@pytest.mark.parametrize(("source", "message"), [
    ((1, 1, CAMERA, 12), r"row 1 of composite_info has frame 12 of \[1, 1, 2\] .*annot\.mat has 12 frames, from 0"),
    ((1, 1, CAMERA), r"sampled_dataset_info\.mat: row 1 of composite_info: expected cells that begin with subject"),
    ((9, 1, CAMERA, 0), r"S9/Seq1/camera\.calibration is missing"),
])
def test_rows_that_do_not_fit_are_named(made_dir, source, message):
    write_composite_info(made_dir, [[source] * 4])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_one(made_dir)


def test_missing_table_is_named(made_dir):
    (made_dir / "sampled_dataset_info.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"sampled_dataset_info\.mat is missing\. It is made with unaugmented_set_001"):
        load_one(made_dir)


def test_adapter_can_be_sent_to_a_worker():
    assert pickle.loads(pickle.dumps(ADAPTER)).name == "muco_3dhp"
