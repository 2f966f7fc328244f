"""Raw file readers against hand-made files, hand-drawn masks and an independent polygon test."""

import json
import pathlib

import matplotlib.path
import numpy as np
import pytest
import scipy.io

from datasets.raw_files import (
    find_nested,
    first_existing,
    has_enough_limb_joints,
    joints_box,
    mat_list,
    path_inside,
    polygons_to_mask,
    read_coco_keypoints,
    read_json,
    read_mat,
    rle_to_mask,
    suggestion,
)
from posepile.geometry.skeleton import load_skeleton

COCO = load_skeleton("coco_17")
FOLDER = pathlib.Path("/data")


def test_read_json_names_file_and_place_of_a_cut_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"images": [1,')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON.*line 1 column 15"):
        read_json(path)
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(path)
    with pytest.raises(FileNotFoundError, match=r"b\.json is missing\. Get it there\."):
        read_json(tmp_path / "b.json", "Get it there.")


def test_read_json_refuses_what_is_nested_too_deeply(tmp_path):
    (tmp_path / "deep.json").write_text(200_000 * "[")
    with pytest.raises(ValueError, match=r"deep\.json is not valid JSON"):
        read_json(tmp_path / "deep.json")


def test_read_mat_explains_broken_files(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"RELEASE": {"one": 1.0, "many": [1.0, 2.0]}})
    release = read_mat(path, "RELEASE")
    assert mat_list(release, "one") == [1] and mat_list(release, "many") == [1, 2] and mat_list(release, "none") == []
    with pytest.raises(ValueError, match=r"a\.mat has no variable OTHER"):
        read_mat(path, "OTHER")
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(ValueError, match=r"a\.mat cannot be read as a MATLAB 5 file"):
        read_mat(path, "RELEASE")
    path.write_bytes(b"this is no MATLAB file" * 20)
    with pytest.raises(ValueError, match=r"a\.mat cannot be read as a MATLAB 5 file"):
        read_mat(path, "RELEASE")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.mat cannot be read as a MATLAB 5 file"):
        read_mat(path, "RELEASE")


@pytest.mark.parametrize("relative", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "a\\..\\..\\b.jpg", "C:\\a.jpg", "",
                                      None, 3, "a\0b"])
def test_paths_that_leave_the_folder_are_refused(relative):
    with pytest.raises(ValueError, match=r"^here: "):
        path_inside(FOLDER, relative, "here")


@pytest.mark.parametrize("relative", ["a.jpg", "a/b.jpg", "./a.jpg", "a..b/c.jpg"])
def test_paths_inside_the_folder_are_accepted(relative):
    assert FOLDER in path_inside(FOLDER, relative, "here").parents


def test_first_of_the_paths_that_exist(tmp_path):
    paths = [tmp_path / "a.txt", tmp_path / "b", tmp_path / "c.txt"]
    assert first_existing(*paths) == paths[0]
    paths[2].touch()
    assert first_existing(*paths) == paths[2]
    paths[1].mkdir()
    assert first_existing(*paths) == paths[1]


def test_nested_files_are_found_from_the_outside_in(tmp_path):
    for name in ("x/a.txt", "x/y/b.txt", "w/c.txt", "d.txt", "x/y/z/e.txt", "x/a.csv"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).touch()
    (tmp_path / "raw" / "link").symlink_to(tmp_path / "raw" / "x" / "y")

    def names(*options):
        return [path.relative_to(tmp_path / "raw").as_posix() for path in find_nested(tmp_path / "raw", *options)]

    assert names("*.txt", 0) == ["d.txt"]
    assert names("*.txt") == ["d.txt", "link/b.txt", "w/c.txt", "x/a.txt"]
    assert names("y/*.txt") == ["x/y/b.txt"]
    assert names("*.txt", 2) == [*names("*.txt"), "link/z/e.txt", "x/y/b.txt"]


def test_suggestion():
    assert suggestion("jonts", ["bbox", "joints"]) == " Did you mean 'joints'?"
    assert suggestion("zebra", ["bbox", "joints"]) == ""


def test_joints_box_by_hand():
    joints2d = np.array([[10, 20], [30, 60], [np.nan, np.nan], [20, 30]])
    np.testing.assert_array_equal(joints_box(joints2d), [10, 20, 20, 40])
    np.testing.assert_array_equal(joints_box(joints2d, 1.5), [5, 10, 30, 60])  # centre (20, 40) stays
    assert joints_box(joints2d[:1]) is None
    assert joints_box(np.array([[1.0, 2], [1, 5]])) is None  # spans no area
    np.testing.assert_array_equal(joints_box(joints2d, 1.5, (30, 50)), [5, 10, 24.5, 39.5])  # it ends at 29.5, 49.5
    assert joints_box(joints2d, 1.5, (5, 50)) is None  # outside


def test_more_than_six_limb_joints_are_needed():
    joints2d = np.full((17, 2), np.nan)
    joints2d[:5] = 1  # the face does not count
    joints2d[5:11] = 1
    assert not has_enough_limb_joints(joints2d, COCO)
    joints2d[16] = 1
    assert has_enough_limb_joints(joints2d, COCO)


def test_polygons_agree_with_an_independent_point_test_away_from_the_outline():
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    star = 40 + np.stack([np.cos(angles), np.sin(angles)], 1) * np.where(np.arange(12) % 2, 15.3, 33.7)[:, None]
    mask = polygons_to_mask([star], 80, 90)
    y, x = np.mgrid[:80, :90]
    pixels = np.stack([x.ravel(), y.ravel()], 1)
    start, edge = star[:, None], np.roll(star, -1, axis=0)[:, None] - star[:, None]
    along = np.clip(((pixels - start) * edge).sum(-1) / (edge * edge).sum(-1), 0, 1)
    distance = np.linalg.norm(pixels - start - along[..., None] * edge, axis=-1).min(axis=0)
    is_inside = matplotlib.path.Path(star).contains_points(pixels)
    is_clear = distance > 0.75  # a pixel whose square the outline crosses may go either way
    assert (is_clear & is_inside).sum() > 1000 and (is_clear & ~is_inside).sum() > 3000
    np.testing.assert_array_equal(mask.ravel()[is_clear], is_inside[is_clear])


def test_overlapping_polygons_are_united():
    square, shifted = np.array([[2, 2], [12, 2], [12, 12], [2, 12]]), np.array([[8, 8], [18, 8], [18, 18], [8, 18]])
    mask = polygons_to_mask([square, shifted], 20, 20)
    assert mask[10, 10] and mask[3, 3] and mask[17, 17] and not mask[3, 17]
    assert mask.sum() == 11 * 11 * 2 - 5 * 5


def test_run_lengths_by_hand():
    # Columns of a 2 x 3 image, top to bottom: 0 1 | 1 1 | 0 0
    expected = np.array([[False, True, False], [True, True, False]])
    np.testing.assert_array_equal(rle_to_mask([1, 3, 2], 2, 3), expected)
    np.testing.assert_array_equal(rle_to_mask("132", 2, 3), expected)  # 48 + value where that is below 16
    with pytest.raises(ValueError, match="sum to 5, not to 2 x 3"):
        rle_to_mask([1, 3, 1], 2, 3)


def test_compressed_run_lengths_against_an_encoder():
    rng = np.random.default_rng(0)
    counts = [int(n) for n in rng.integers(0, 3000, 40)]
    assert np.array_equal(rle_to_mask(compress(counts), 1, sum(counts)), rle_to_mask(counts, 1, sum(counts)))


def compress(counts):
    """COCO's text code, from its description: from the 4th on differences to the last but one, 5 bits a character."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            is_last = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if is_last else 32))
            if is_last:
                break
    return text


def test_real_run_lengths_fill_their_box(real_samples):
    (path,) = (real_samples / "ochuman" / "annotations").glob("*.json")
    for label in json.loads(path.read_text())["annotations"][:2]:  # the third one has the mask of another person
        mask = rle_to_mask(label["segmentation"]["counts"], *label["segmentation"]["size"])
        x, y, width, height = label["bbox"]
        rows, columns = np.nonzero(mask)
        low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])
        assert (low >= [x, y]).all() and (high <= [x + width, y + height]).all()
        assert ((high - low) > 0.85 * np.array([width, height])).all()


def write_coco(path, annotations, images=({"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},), **others):
    path.write_text(json.dumps({"images": list(images), "annotations": annotations, **others}))
    return path


def annotation(**changes):
    keypoints = [coordinate for i in range(17) for coordinate in (i, 2 * i, 2)]
    return {"id": 7, "image_id": 1, "category_id": 1, "keypoints": keypoints, "bbox": [1, 2, 3, 4], **changes}


def test_coco_reader_keeps_labels_and_drops_crowds_and_unlabelled_people(tmp_path):
    keypoints = [0, 0, 0] + [5, 6, 1] + [7, 8, 2] * 15
    path = write_coco(tmp_path / "a.json", [
        annotation(keypoints=keypoints, segmentation=[[2, 2, 9, 2, 9, 9, 2, 9]], iscrowd=0),
        annotation(id=8, iscrowd=1, segmentation={"counts": [1], "size": [1, 1]}),
        annotation(id=9, keypoints=[0] * 51)])
    (people,) = read_coco_keypoints(path, COCO).values()
    (person,) = people
    assert person.annotation_id == 7 and person.file_name == "a.jpg" and person.image_size == (40, 30)
    assert np.isnan(person.joints2d[0]).all()
    np.testing.assert_array_equal(person.joints2d[1:3], [[5, 6], [7, 8]])
    assert person.flags.tolist() == [0, 1] + 15 * [2]
    mask = person.mask()  # corner coordinates 2..9 are the pixels 2..8
    assert mask.shape == (30, 40) and mask[2:9, 2:9].all() and mask.sum() <= 9 * 9


def test_coco_reader_sorts_joints_by_the_names_in_the_file(tmp_path):
    names = list(reversed(COCO.joint_names))
    path = write_coco(tmp_path / "a.json", [annotation()], categories=[{"id": 1, "keypoints": names}])
    ((person,),) = read_coco_keypoints(path, COCO).values()
    np.testing.assert_array_equal(person.joints2d[0], [16, 32])  # the nose is last in this file
    write_coco(path, [annotation()], categories=[{"id": 1, "keypoints": [*names[:-1], "tail"]}])
    with pytest.raises(ValueError, match=r"a\.json: its category lists.*tail.*expected those of coco_17"):
        read_coco_keypoints(path, COCO)


@pytest.mark.parametrize(("changes", "message"), [
    ({"keypoints": [1, 2, 2]}, r"annotations\[0\] \(id 7\): keypoints: expected 51 finite numbers"),
    ({"keypoints": ["x", 2, 2] * 17}, r"annotations\[0\] \(id 7\): keypoints: expected 51 numbers"),
    ({"keypoints": [float("nan"), 2, 2] * 17}, r"annotations\[0\] \(id 7\): keypoints: expected 51 finite numbers"),
    ({"bbox": [1, 2, 3]}, r"annotations\[0\] \(id 7\): bbox: expected 4"),
    ({"image_id": 5}, r"annotations\[0\] \(id 7\) has image_id 5, which none of its images has"),
    ({"segmentation": [[1, 2, 3, "x", 5, 6]]}, r"annotations\[0\] \(id 7\): segmentation"),
    ({"segmentation": "none"}, r"annotations\[0\] \(id 7\): segmentation: expected polygons or run lengths"),
    ({"track_id": [1]}, r"annotations\[0\] \(id 7\): track_id: expected a number"),
])
def test_coco_reader_names_the_wrong_field(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_coco_keypoints(write_coco(tmp_path / "a.json", [annotation(**changes)]), COCO)


def test_broken_run_lengths_are_explained(tmp_path):
    path = write_coco(tmp_path / "a.json", [annotation(segmentation={"counts": [1, 2], "size": [30, 40]})])
    ((person,),) = read_coco_keypoints(path, COCO).values()
    with pytest.raises(ValueError, match=r"annotation 7 of a\.jpg: .*mask runs sum to 3, not to 30 x 40"):
        person.mask()


def test_coco_reader_refuses_other_files(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a\.json is not a COCO-style keypoint file"):
        read_coco_keypoints(tmp_path / "a.json", COCO)
    with pytest.raises(ValueError, match=r"images\[0\] needs an id and a file_name"):
        read_coco_keypoints(write_coco(tmp_path / "a.json", [], images=[{"id": 1}]), COCO)
