"""Tests of datasets/catalogue.py and of the facts in catalogue.toml."""

import collections
import pathlib
import re

import pytest

from datasets.catalogue import CATEGORIES, KINDS, dataset_info, load_catalogue, normalize_name
from posepile.geometry.skeleton import list_skeletons, load_skeleton

# What the sets of the paper consist of, in the groups of WACV 2023, Table S1.
PAPER_GROUPS = {
    "markerless": ["muco_3dhp", "panoptic", "aist", "humbi", "mpi_inf_3dhp", "rich", "behave", "aspset", "3doh50k",
                   "ikea_asm"],
    "marker-based": ["h36m", "totalcapture", "bml_movi", "berkeley_mhad", "umpm", "fit3d", "gpa", "humansc3d", "chi3d",
                     "human4d", "mads"],
    "synthetic": ["surreal", "3dpeople", "jta", "hspace", "sailvos", "agora", "spec"],
    "2D": ["coco", "mpii", "posetrack", "jrdb"],
}
NUM_JOINTS = {
    "h36m": 25, "mpi_inf_3dhp": 28, "muco_3dhp": 28, "panoptic": 19, "aist": 19, "humbi": 25,
    "rich": 42, "behave": 49, "aspset": 17, "3doh50k": 14, "ikea_asm": 17, "totalcapture": 21,
    "bml_movi": 87, "berkeley_mhad": 43, "umpm": 15, "fit3d": 25, "humansc3d": 25, "chi3d": 25,
    "gpa": 34, "human4d": 32, "mads": 19, "surreal": 24, "3dpeople": 29, "jta": 22, "hspace": 35,
    "sailvos": 26, "agora": 66, "spec": 24, "coco": 17, "mpii": 16, "posetrack": 17, "jrdb": 17,
    "3dpw": 24, "mupots": 17, "synthetic_studio": 24, "synthetic_street": 17, "synthetic_gym": 17,
    "synthetic_garden": 19, "synthetic_photos": 17, "synthetic_test": 77,
}


def formats_of(info):
    if info.skeleton is None:
        return []
    return info.skeleton["merge"] if isinstance(info.skeleton, dict) else [info.skeleton]


@pytest.mark.parametrize("info", load_catalogue().values(), ids=lambda info: info.name)
def test_entry_is_complete(info):
    assert info.name == normalize_name(info.name)
    assert info.title and info.licence
    assert info.kind in KINDS and info.category in CATEGORIES
    assert (info.category == "2D") <= (info.kind == "2d")
    if info.is_rendered or info.category == "own":
        assert not info.url and info.year is None
    else:
        assert info.paper and info.url.startswith("http") and 2010 < info.year < 2025


@pytest.mark.parametrize("name", NUM_JOINTS)
def test_joint_formats(name):
    assert dataset_info(name).load_skeleton().num_joints == NUM_JOINTS[name]


def test_all_data_sets_are_there():
    assert set(load_catalogue()) == {*NUM_JOINTS, "custom"}
    for category, names in PAPER_GROUPS.items():
        assert {load_catalogue()[name].category for name in names} == {category}
        assert {load_catalogue()[name].kind for name in names} == {"2d" if category == "2D" else "3d"}
    assert {name for name, info in load_catalogue().items() if info.evaluation_only} == {"mupots", "synthetic_test"}


def test_every_format_is_used():
    used = {name for info in load_catalogue().values() for name in formats_of(info)}
    assert used == set(list_skeletons())


def test_hyphens_are_underscores():
    assert normalize_name("mpi-inf-3dhp") == "mpi_inf_3dhp"
    assert dataset_info("bml-movi") is load_catalogue()["bml_movi"]


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown data set 'human36m'; known ones: mpi_inf_3dhp, .*custom"):
        dataset_info("human36m")


def test_custom_has_no_format_of_its_own():
    with pytest.raises(ValueError, match="joint format of custom is what its own files say"):
        dataset_info("custom").load_skeleton()


def test_the_documented_table_is_the_one_in_use():
    text = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "skeleton_formats.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\d+) \| (.*) \|$", text, re.MULTILINE)
    documented = {name: (family, int(num_joints), set(users.split(", "))) for name, family, num_joints, users in rows}
    in_use = {name: (load_skeleton(name).family, load_skeleton(name).num_joints, set()) for name in list_skeletons()}
    for info in load_catalogue().values():
        for name in formats_of(info):
            in_use[name][2].add(info.name)
    assert documented == in_use
    families = re.findall(r"(?:^| )\| (\w+) \| (\d+) (?=\|)", text[text.index("## Merging"):], re.MULTILINE)
    joints = collections.defaultdict(set)
    for category in ("markerless", "marker-based", "synthetic"):
        for name in PAPER_GROUPS[category]:
            for fmt in map(load_skeleton, formats_of(dataset_info(name))):
                joints[fmt.family] |= set(fmt.joint_names)
    counts = {family: len(names) for family, names in joints.items()}
    assert {family: int(count) for family, count in families} == counts
