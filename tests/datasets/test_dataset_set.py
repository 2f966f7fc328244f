"""Tests of datasets/dataset_set.py and of the sets that come with the project."""

import dataclasses
import json
import pathlib
import re

import pytest

from datasets.dataset_set import (
    dataset_skeleton,
    describe_datasets,
    is_prepared,
    list_dataset_sets,
    load_dataset_set,
    missing_datasets,
    missing_datasets_message,
)
from posepile.data.atomic_files import write_json
from posepile.data.augmentation import AugmentationConfig
from posepile.geometry.skeleton import load_skeleton, merge_skeletons

# WACV 2023, Table S1: examples per batch in the sets small, medium and full.
TABLE_S1_3D = {
    "muco_3dhp": (32, 9, 6), "panoptic": (0, 9, 7), "aist": (0, 9, 6), "humbi": (0, 7, 5), "mpi_inf_3dhp": (0, 5, 3),
    "rich": (0, 7, 4), "behave": (0, 0, 3), "aspset": (0, 0, 4), "3doh50k": (0, 0, 3), "ikea_asm": (0, 0, 2),
    "h36m": (32, 9, 4), "totalcapture": (0, 5, 3), "bml_movi": (0, 0, 5), "berkeley_mhad": (0, 0, 3), "umpm": (0, 0, 2),
    "fit3d": (0, 0, 2), "gpa": (0, 0, 4), "humansc3d": (0, 0, 1), "chi3d": (0, 0, 1), "human4d": (0, 0, 1),
    "mads": (0, 0, 2), "surreal": (32, 8, 5), "3dpeople": (0, 6, 4), "jta": (0, 5, 3), "hspace": (0, 5, 3),
    "sailvos": (0, 7, 5), "agora": (0, 5, 3), "spec": (0, 0, 2),
}
NAMES_IN_METHOD = {"CMU-Panoptic": "panoptic", "AIST-Dance++": "aist", "Human3.6M": "h36m", "SAIL-VOS": "sailvos"}
METHOD_FILE = pathlib.Path(__file__).resolve().parents[3] / "shared" / "METHOD.md"

GOOD_SET = """
description = "two of them"
batch_size = 24
[datasets_3d]
h36m = 8
mpi-inf-3dhp = 8
[datasets_2d]
coco = 8
[evaluation]
datasets = ["3dpw", "h36m", "synthetic-test"]
[hyperparameters]
crop_side = 128
"""


@pytest.fixture
def write_set(tmp_path):
    def write(content):
        path = tmp_path / "mine.toml"
        path.write_text(content)
        return path
    return write


def prepare(data_root, name, kind="3d", skeleton="smpl_24"):
    """A prepared data set as far as a set can see it."""
    manifest = {"name": name, "kind": kind, "skeleton": load_skeleton(skeleton).to_dict(), "splits": {}}
    write_json(data_root / name / "manifest.json", manifest)


@pytest.mark.parametrize(("name", "column"), [("small", 0), ("medium", 1), ("full", 2)])
def test_sets_of_the_paper(name, column):
    dataset_set = load_dataset_set(name)
    assert dataset_set.datasets_3d == {key: counts[column] for key, counts in TABLE_S1_3D.items() if counts[column]}
    assert dataset_set.datasets_2d == {"coco": 8, "mpii": 8, "posetrack": 8, "jrdb": 8}
    assert (dataset_set.num_3d, dataset_set.num_2d, dataset_set.batch_size) == (96, 32, 128)


@pytest.mark.skipif(not METHOD_FILE.is_file(), reason=f"{METHOD_FILE} is not there")
def test_typed_table_agrees_with_the_method_description():
    text = METHOD_FILE.read_text()
    section = text[text.index("## 8. "):text.index("## 9. ")]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = {}
    for row in rows[2:]:  # after the header and its rule
        for title, *counts in (row[:4], row[5:]):
            if title and not title.startswith("**") and "(2D)" not in title:
                name = NAMES_IN_METHOD.get(title, re.sub(r"[- ]", "_", title.lower()))
                table[name] = tuple(int(count or 0) for count in counts)
    assert table == TABLE_S1_3D


def test_joint_lists_have_the_size_that_the_paper_states():
    """Section 1 of the method: 555 joints in the full set."""
    formats = [dataset_skeleton(name) for name in load_dataset_set("full").datasets_3d]
    assert merge_skeletons(formats).num_joints == 555


def test_demo_set():
    demo = load_dataset_set("demo")
    assert demo.datasets_3d == dict.fromkeys(
        ["synthetic_studio", "synthetic_street", "synthetic_gym", "synthetic_garden"], 7)
    assert demo.datasets_2d == {"synthetic_photos": 4} and demo.batch_size == 32
    assert demo.evaluation == ("synthetic_test",)
    assert demo.hyperparameters["backbone"] == "tiny" and demo.hyperparameters["crop_side"] == 64
    assert merge_skeletons([dataset_skeleton(name) for name in demo.datasets_3d]) == dataset_skeleton("synthetic_test")


def test_all_sets_are_listed_and_can_be_read():
    assert list_dataset_sets() == ["demo", "small", "medium", "full", "benchmarks"]
    for name in list_dataset_sets():
        assert load_dataset_set(name).name == name


def test_a_file_of_ones_own(write_set):
    path = write_set(GOOD_SET)
    dataset_set = load_dataset_set(path)
    assert load_dataset_set(str(path)) == dataset_set
    assert (dataset_set.name, dataset_set.description) == ("mine", "two of them")
    assert list(dataset_set.datasets_3d.items()) == [("h36m", 8), ("mpi_inf_3dhp", 8)]  # in the file's order
    assert dataset_set.evaluation == ("3dpw", "h36m", "synthetic_test")
    assert dataset_set.hyperparameters == {"crop_side": 128}
    assert dataset_set.names() == ["h36m", "mpi_inf_3dhp", "coco", "3dpw", "synthetic_test"]


def test_own_data_set_that_is_prepared(write_set, tmp_path):
    path = write_set(GOOD_SET.replace("mpi-inf-3dhp", "my_rig"))
    command = "python -m datasets prepare custom --name=my_rig --raw-dir=RAW_DIR"
    with pytest.raises(ValueError, match=rf"data set 'my_rig' is unknown, and .*/my_rig/manifest\.json does not exist.*"
                                         rf"{command} .*or declared .*own_datasets.*Known ones: mpi_inf_3dhp"):
        load_dataset_set(path, data_root=tmp_path)
    prepare(tmp_path, "my_rig", skeleton="umpm_15")
    dataset_set = load_dataset_set(path, data_root=tmp_path)
    assert dataset_set.datasets_3d == {"h36m": 8, "my_rig": 8}
    assert dataset_skeleton("my-rig", tmp_path) == load_skeleton("umpm_15")
    with pytest.raises(ValueError, match=r"DATA_ROOT/my_rig/manifest\.json"):
        load_dataset_set(path)
    prepare(tmp_path, "my_rig", kind="2d")
    with pytest.raises(ValueError, match=r"lists my_rig, which is labelled in 2d; move it to \[datasets_2d\]"):
        load_dataset_set(path, data_root=tmp_path)


def test_own_data_set_that_is_declared(write_set, tmp_path):
    path = write_set(GOOD_SET.replace("mpi-inf-3dhp", "my-rig") + """
[own_datasets.my_rig]
kind = "3d"
skeleton = {name = "rig", joints = ["head", "pelvis"], edges = ["head-pelvis"]}
""")
    dataset_set = load_dataset_set(path, data_root=tmp_path)
    skeleton = dataset_skeleton("my_rig", tmp_path, dataset_set.own_datasets)
    assert skeleton.joint_names == ("head", "pelvis")
    assert describe_datasets(dataset_set, tmp_path)[1]["skeleton"] == "rig"
    assert (f"  python -m datasets prepare custom --name=my_rig --raw-dir=RAW_DIR --data-root={tmp_path}"
            in missing_datasets_message(missing_datasets(dataset_set, tmp_path), tmp_path).splitlines())


def test_the_manifest_overrides_the_catalogue(tmp_path):
    """A data set may be prepared with fewer joints than its files have."""
    assert dataset_skeleton("h36m", tmp_path) == load_skeleton("h36m_25")
    prepare(tmp_path, "h36m", skeleton="h36m_17")
    assert dataset_skeleton("h36m", tmp_path) == load_skeleton("h36m_17")


def test_describe_datasets(write_set, tmp_path):
    prepare(tmp_path, "coco", kind="2d", skeleton="coco_17")
    assert describe_datasets(load_dataset_set(write_set(GOOD_SET), tmp_path), tmp_path) == [
        {"name": "h36m", "kind": "3d", "skeleton": "h36m_25", "examples_per_batch": 8, "prepared": False},
        {"name": "mpi_inf_3dhp", "kind": "3d", "skeleton": "mpi_inf_3dhp_28", "examples_per_batch": 8,
         "prepared": False},
        {"name": "coco", "kind": "2d", "skeleton": "coco_17", "examples_per_batch": 8, "prepared": True}]


def test_missing_datasets(write_set, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.dataset_set.list_adapters", lambda: ["mpi_inf_3dhp", "synthetic_test"])
    dataset_set = load_dataset_set(write_set(GOOD_SET))
    for name in ("h36m", "coco", "3dpw"):
        prepare(tmp_path, name, kind="2d" if name == "coco" else "3d")
    assert missing_datasets(dataset_set, tmp_path) == ["mpi_inf_3dhp", "synthetic_test"]
    message = missing_datasets_message(["mpi_inf_3dhp", "synthetic_test"], tmp_path)
    assert message.splitlines() == [
        f"2 data sets are not prepared in {tmp_path}: mpi_inf_3dhp, synthetic_test. To prepare:",
        f"  python -m datasets prepare mpi_inf_3dhp --raw-dir=RAW_DIR --data-root={tmp_path}"
        "   # from https://vcai.mpi-inf.mpg.de/3dhp-dataset/",
        f"  python -m datasets prepare synthetic_test --data-root={tmp_path}"]
    assert missing_datasets_message(["mads"], tmp_path).splitlines() == [
        f"1 data set is not prepared in {tmp_path}: mads. To prepare:",
        f"  python -m datasets prepare mads --raw-dir=RAW_DIR --data-root={tmp_path}"
        "   # from https://visal.cs.cityu.edu.hk/research/mads/; "
        "needs an adapter, datasets/adapters/mads.py, which this version does not have"]
    assert missing_datasets_message([], tmp_path) == ""
    assert not is_prepared("mpi_inf_3dhp", tmp_path) and is_prepared("3dpw", tmp_path)


# Section 2 of the method.
@pytest.mark.parametrize(("name", "datasets"), [
    ("demo", set()), ("small", set()), ("medium", {"sailvos", "agora", "hspace"}),
    ("full", {"sailvos", "agora", "spec", "hspace"})])
def test_realistic_backgrounds_are_replaced_less_often(name, datasets):
    dataset_set = load_dataset_set(name)
    assert dataset_set.dataset_augmentation == dict.fromkeys(datasets, AugmentationConfig(background_probability=0.2))


def test_augmentation_of_single_data_sets(write_set):
    dataset_set = load_dataset_set(write_set(GOOD_SET + """
[hyperparameters.augmentation]
zoom = [1, 1.5]
roll_degrees = 5
[hyperparameters.dataset_augmentation.h36m]
roll_degrees = 10
[hyperparameters.dataset_augmentation]
mpi-inf-3dhp = {num_occluders = [2, 3], erased_area = [0.1, 0.2]}
coco.zoom = [0.5, 1]
"""))
    general = AugmentationConfig(zoom=(1.0, 1.5), roll_degrees=5.0)
    assert dataset_set.augmentation == general
    assert dataset_set.dataset_augmentation == {
        "h36m": dataclasses.replace(general, roll_degrees=10.0),
        "mpi_inf_3dhp": dataclasses.replace(general, num_occluders=(2, 3), erased_area=(0.1, 0.2)),
        "coco": dataclasses.replace(general, zoom=(0.5, 1.0))}
    assert isinstance(dataset_set.augmentation.roll_degrees, float) and isinstance(dataset_set.augmentation.zoom[0], float)
    assert isinstance(dataset_set.dataset_augmentation["mpi_inf_3dhp"].num_occluders[0], int)
    assert dataset_set.hyperparameters == {"crop_side": 128}


@pytest.mark.parametrize(("lines", "message"), [
    ("augmentation = 3", r"mine.toml: \[hyperparameters.augmentation\] must be a table of settings, not 3"),
    ("augmentation.blur = 3",
     r"mine.toml: \[hyperparameters.augmentation\]: unknown augmentation settings blur; valid ones: shift, .*contrast"),
    ("augmentation.zoom = [1.5, 1]", r"\[hyperparameters.augmentation\]: augmentation zoom must be a range"),
    ("dataset_augmentation = 0.2", r"\[hyperparameters.dataset_augmentation\] must hold a table .* each data set, not 0.2"),
    ("dataset_augmentation.h36m = 0.2",
     r"mine.toml: \[hyperparameters.dataset_augmentation.h36m\] must be a table of settings, not 0.2"),
    ("dataset_augmentation.h36m.blur = 1",
     r"mine.toml: \[hyperparameters.dataset_augmentation.h36m\]: unknown .* blur; valid ones: shift, "),
    ("dataset_augmentation.h36m.flip_probability = 1.5", r"dataset_augmentation.h36m\]: .*flip_probability must be in 0 .. 1"),
    ("dataset_augmentation.sailvos.shift = 0.2",
     r"mine.toml: \[hyperparameters.dataset_augmentation\] names sailvos, on .*; valid ones: h36m, mpi_inf_3dhp, coco$"),
    ("dataset_augmentation.3dpw.shift = 0.2", "names 3dpw, on which the set does not train"),  # evaluated, not trained on
    ("dataset_augmentation.mpi-inf-3dhp.shift = 0.2\ndataset_augmentation.mpi_inf_3dhp.zoom = [1, 1]",
     "lists mpi_inf_3dhp twice"),
])
def test_bad_augmentation_tables_are_refused(write_set, lines, message):
    with pytest.raises(ValueError, match=message):
        load_dataset_set(write_set(GOOD_SET + lines))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(AugmentationConfig)])
def test_every_augmentation_setting_refuses_values_of_the_wrong_kind(write_set, name):
    is_range = isinstance(getattr(AugmentationConfig(), name), tuple)
    wrong = ['"1"', "true", "{}", "nan", "inf", "-1", "[]", "[1]", "[1, 2, 3]", '[1, "1"]', "[true, 1]", "[nan, 1]", "[1, inf]",
             "[-1, 1]", "[2, 1]"]
    wrong += ["1", "1.0"] if is_range else ["[1, 2]"]
    wrong += ["[1.0, 2.0]"] if name == "num_occluders" else []
    for value in wrong:
        with pytest.raises(ValueError, match=rf"dataset_augmentation.h36m\]: augmentation {name} must .*, got ") as error:
            load_dataset_set(write_set(GOOD_SET + f"[hyperparameters.dataset_augmentation.h36m]\n{name} = {value}"))
        assert "\n" not in str(error.value)


def test_a_folder_without_manifest_is_not_prepared(tmp_path):
    (tmp_path / "h36m").mkdir()
    (tmp_path / "h36m" / "train-00000-of-00001.tfrecord").touch()
    assert not is_prepared("h36m", tmp_path)


def test_unknown_set_and_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"unknown dataset set 'large'; known ones: demo, .*, full, benchmarks; the"):
        load_dataset_set("large")
    with pytest.raises(FileNotFoundError, match=r"no dataset set file .*absent.toml"):
        load_dataset_set(tmp_path / "absent.toml")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("h36m = 8", "h36m = 9", r"batch_size is 24, but the examples per batch add up to 17 \(3D\) \+ 8 \(2D\) = 25"),
    ("batch_size = 24", "", "entry batch_size is missing"),
    ("batch_size = 24", "batch_size = 24.0", "batch_size must be a positive whole number, not 24.0"),
    ("h36m = 8", "h36m = -8", "h36m = -8: examples per batch must be a positive whole number"),
    ("h36m = 8", "h36m = 0", "h36m = 0: .*leave a data set out by removing its line"),
    ("h36m = 8", "h36m = 8.0", r"h36m = 8\.0: "),
    ("h36m = 8", "h36m = true", "h36m = True: "),
    ("h36m = 8", 'h36m = "8"', "h36m = '8': "),
    ("h36m = 8", "h36m = 8\nh36m = 8", r"mine.toml is not a valid TOML file: .*line 6"),
    ("h36m = 8", "mpi_inf_3dhp = 8", "lists mpi_inf_3dhp twice"),
    ("coco = 8", "h36m = 8", r"\[datasets_2d\] lists h36m, which is labelled in 3d; move it to \[datasets_3d\]"),
    ("h36m = 8", "coco = 8", r"\[datasets_3d\] lists coco, which is labelled in 2d; move it to \[datasets_2d\]"),
    ("h36m = 8", "mupots = 8", "lists mupots, which is for evaluation only"),
    ("h36m = 8", "human36m = 8", "data set 'human36m' is unknown.*Known ones: mpi_inf_3dhp, "),
    ("h36m = 8", "custom = 8", "data set 'custom' is unknown"),
    ("h36m = 8", '"../h36m" = 8', r"\[datasets_3d\] '../h36m' is not the name of a data set"),
    ('"3dpw"', '"3dpv"', "data set '3dpv' is unknown"),
    ('"3dpw"', "3", r"\[evaluation\] datasets must be a list of names, not \[3"),
    ("[evaluation]", "[evaluation]\nmetrics = 3", r"\[evaluation\] takes datasets only, not metrics"),
    ("[datasets_2d]", "[datasets_4d]", r"unknown entries datasets_4d; valid ones: .*datasets_3d"),
    ("[hyperparameters]\ncrop_side = 128", "[[hyperparameters]]", "hyperparameters must be a table"),
    ("batch_size = 24", "batch_size = ", r"mine.toml is not a valid TOML file: .*line 3"),
    ('"two of them"', "2", "description must be a text, not 2"),
])
def test_bad_sets_are_refused(write_set, old, new, message):
    assert GOOD_SET.count(old) == 1
    with pytest.raises(ValueError, match=message):
        load_dataset_set(write_set(GOOD_SET.replace(old, new)))


def test_a_set_needs_3d_labels(write_set):
    with pytest.raises(ValueError, match=r"\[datasets_3d\] is empty"):
        load_dataset_set(write_set("batch_size = 8\n[datasets_3d]\n[datasets_2d]\ncoco = 8"))


@pytest.mark.parametrize(("entry", "message"), [
    ('rig = "h36m_17"', "must be a table with kind and skeleton"),
    ('rig = {kind = "3d"}', "must be a table with kind and skeleton"),
    ('rig = {kind = "4d", skeleton = "h36m_17"}', "kind must be one of 3d, 2d, not '4d'"),
    ('rig = {kind = "3d", skeleton = "h36m_18"}', "own_datasets. rig: unknown skeleton 'h36m_18'"),
    ('rig = {kind = "3d", skeleton = ["h36m_17"]}', "must be the name of a joint format or a table that defines one"),
    ('h36m = {kind = "3d", skeleton = "h36m_17"}', "the catalogue has a data set of this name, Human3.6M"),
])
def test_bad_own_datasets_are_refused(write_set, entry, message):
    with pytest.raises(ValueError, match=message):
        load_dataset_set(write_set(GOOD_SET + "[own_datasets]\n" + entry))


def test_the_documented_example_can_be_read(write_set):
    text = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "dataset_sets.md").read_text()
    dataset_set = load_dataset_set(write_set("\n".join(re.findall(r"```toml\n(.*?)```", text, re.DOTALL))))
    assert dataset_set.datasets_3d == {"h36m": 24, "our_rig": 24} and dataset_set.datasets_2d == {"coco": 16}
    assert dataset_set.own_datasets["our_rig"].kind == "3d"


def test_the_documented_augmentation(write_set):
    text = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "augmentation.md").read_text()
    settings = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    assert list(settings) == [field.name for field in dataclasses.fields(AugmentationConfig)]
    for name, default in settings.items():
        assert json.loads(default) == pytest.approx(getattr(AugmentationConfig(), name), abs=5e-4), name
    dataset_set = load_dataset_set(write_set(re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1]))
    assert dataset_set.hyperparameters == {"occluder_dir": "pictures/objects", "background_dir": "pictures/photos"}
    assert dataset_set.dataset_augmentation == {"sailvos": AugmentationConfig(roll_degrees=15, background_probability=0.2)}
