"""Tests of posepile/geometry/skeleton.py and of the formats in skeletons.toml."""

import json

import numpy as np
import pytest

from posepile.geometry.skeleton import (
    Skeleton,
    averaging_matrix,
    joint_indices,
    list_skeletons,
    load_skeleton,
    merge_skeletons,
    plain_joint_names,
    skeleton_from_dict,
)

# The connected parts of those formats whose bones do not join all joints: with no trunk (COCO and its kind), or with
# markers and face points that no bone reaches.
NUM_CONNECTED_PARTS = {
    "coco_17": 3,  # face, arms, legs
    "ikea_17": 2,  # face, body
    "3doh_14": 5,  # head, arms, legs; no joint joins them
    "posetrack_17": 6,  # face, head to neck, two arms, two legs
    "aist_19": 2,  # nose to pelvis and limbs, eyes and ears
    "smplx_42": 9,  # eyeballs, first joints of the middle fingers, tips of thumbs and middle fingers are single points
    "bml_movi_87": 68,  # every marker is a single point
    "berkeley_mhad_43": 3,  # head, arms from shoulder to shoulder, trunk and legs
    "3dpeople_29": 2,  # eyes, body
    "sailvos_26": 2,  # face, body
    "ghum_35": 8,  # head2, brows and middle fingers are single points
}

# Raw facts of the data sets' own documentation, kept apart from the table under test: what stands at some positions.
KNOWN_POSITIONS = {
    "smpl_24": {0: "pelvis", 10: "left_foot", 15: "head", 23: "right_hand"},
    "smplx_42": {22: "jaw", 23: "left_eye_joint", 25: "left_middle1", 27: "nose", 28: "right_eye", 29: "left_eye",
                 38: "left_thumb_tip", 41: "right_middle_tip"},
    "body_25": {0: "nose", 1: "neck", 2: "right_shoulder", 8: "pelvis", 9: "right_hip", 15: "right_eye",
                19: "left_big_toe", 21: "left_heel", 24: "right_heel"},
    "aist_19": {0: "nose", 16: "right_ankle", 17: "neck", 18: "pelvis"},
    "fit3d_25": {0: "pelvis", 1: "left_hip", 4: "right_hip", 11: "left_shoulder", 17: "left_foot", 21: "left_thumb",
                 24: "right_fingers"},
    "h36m_25": {0: "right_hip", 10: "spine", 13: "head_top", 14: "left_shoulder", 24: "pelvis"},
    "mpi_inf_3dhp_28": {0: "spine3", 11: "head_top", 13: "right_shoulder", 25: "spine", 26: "head", 27: "pelvis"},
    "aspset_17": {0: "right_ankle", 3: "right_wrist", 12: "head_top", 16: "pelvis"},
    "3doh_14": {0: "right_ankle", 5: "left_ankle", 6: "right_wrist", 12: "neck", 13: "head"},
    "totalcapture_21": {0: "pelvis", 7: "right_clavicle", 11: "left_clavicle", 15: "right_hip", 20: "left_ankle"},
    # Physical markers: 0-4 centre, 5-35 left, 36-66 right; virtual ones 67-86.
    "bml_movi_87": {0: "back_neck", 4: "umbilicus", 5: "left_front_head", 12: "left_wrist_thumb_side",
                    20: "left_ankle_marker", 35: "left_bum", 36: "right_front_head", 66: "right_bum", 67: "head",
                    68: "mid_hip", 71: "left_ankle", 77: "left_wrist", 79: "right_ankle", 85: "right_wrist",
                    86: "right_foot"},
    "berkeley_mhad_43": {0: "head", 16: "left_hand1", 24: "right_hand1", 27: "left_hip_back", 35: "right_hip_back",
                         42: "right_foot"},
    "umpm_15": {0: "pelvis", 3: "right_shoulder", 9: "right_hip", 10: "left_hip", 14: "left_ankle"},
    "gpa_34": {7: "head_top", 15: "right_thumb2", 16: "left_clavicle", 24: "right_hip", 33: "left_toe"},
    "human4d_32": {9: "neck3", 14: "right_thumb", 15: "left_shoulder", 20: "right_hip", 31: "left_toe2"},
    "mads_19": {0: "neck", 1: "pelvis", 13: "left_hand", 18: "head"},
    "3dpeople_29": {6: "right_eye", 8: "head_top", 13: "left_hand", 18: "right_hand", 19: "left_hip", 28: "right_toe"},
    "jta_22": {0: "head_top", 3: "right_clavicle", 11: "spine0", 15: "pelvis", 21: "left_ankle"},
    "ghum_35": {6: "head2", 8: "right_brow1", 12: "left_wrist", 13: "left_middle1", 15: "left_thumb3",
                22: "right_thumb3", 26: "left_heel", 34: "right_toe"},
    "sailvos_26": {0: "head_top", 14: "spine", 16: "pelvis", 17: "right_toe", 19: "nose", 25: "left_hand"},
    "posetrack_17": {1: "head_bottom", 2: "head_top", 5: "left_shoulder", 16: "right_ankle"},
    "jrdb_17": {0: "head_top", 1: "right_eye", 4: "neck", 8: "pelvis", 9: "right_wrist", 12: "left_wrist",
                16: "left_ankle"},
}

ARM = {"name": "arm", "joints": ["left_hand", "chest", "right_hand"],
       "mirror_pairs": [["left_hand", "right_hand"]],
       "edges": ["chest-left_hand"], "root": "chest"}


def count_connected_parts(skeleton):
    part = list(range(skeleton.num_joints))

    def find(i):
        while part[i] != i:
            i = part[i]
        return i

    for i, j in skeleton.edges:
        part[find(i)] = find(j)
    return len({find(i) for i in range(skeleton.num_joints)})


def other_side(joint):
    for side, other in (("left_", "right_"), ("right_", "left_")):
        if joint.startswith(side):
            return other + joint.removeprefix(side)
    return joint


@pytest.mark.parametrize("name", list_skeletons())
def test_format_is_sound(name):
    skeleton = load_skeleton(name)
    assert skeleton.num_joints == int(name.rsplit("_", 1)[1]) == len(set(skeleton.joint_names))
    assert [skeleton.joint_names[i] for i in skeleton.mirror] == [other_side(joint) for joint in skeleton.joint_names]
    assert all(skeleton.joint_names[i].startswith("left_") for i in skeleton.left)
    assert 2 * len(skeleton.left) == sum(mirrored != i for i, mirrored in enumerate(skeleton.mirror))
    bones = {frozenset(edge) for edge in skeleton.edges}
    assert len(bones) == len(skeleton.edges) and all(len(bone) == 2 for bone in bones)
    assert {frozenset(skeleton.mirror[i] for i in bone) for bone in bones} == bones
    assert count_connected_parts(skeleton) == NUM_CONNECTED_PARTS.get(name, 1)
    assert skeleton.root == (skeleton.index("pelvis") if "pelvis" in skeleton.joint_names else None)


@pytest.mark.parametrize("name", KNOWN_POSITIONS)
def test_joints_stand_where_the_data_set_puts_them(name):
    joint_names = load_skeleton(name).joint_names
    assert {i: joint_names[i] for i in KNOWN_POSITIONS[name]} == KNOWN_POSITIONS[name]


@pytest.mark.parametrize("name", list_skeletons())
def test_to_dict_comes_back(name):
    skeleton = load_skeleton(name)
    assert skeleton_from_dict(json.loads(json.dumps(skeleton.to_dict()))) == skeleton


def test_merged_to_dict_comes_back():
    merged = merge_skeletons([load_skeleton("smpl_24"), skeleton_from_dict(ARM)])
    assert skeleton_from_dict(json.loads(json.dumps(merged.to_dict()))) == merged


def test_edges_are_chains_with_their_mirror_images():
    skeleton = skeleton_from_dict({
        "name": "toy", "joints": ["neck", "left_hand", "right_hand", "left_elbow", "right_elbow"],
        "mirror_pairs": [["left_hand", "right_hand"], ["left_elbow", "right_elbow"]],
        "edges": ["neck-right_elbow-right_hand", "left_elbow-right_elbow"]})
    assert skeleton.edges == ((0, 4), (0, 3), (4, 2), (3, 1), (3, 4))
    assert skeleton.mirror == (0, 2, 1, 4, 3)
    assert skeleton.left == (1, 3)
    assert skeleton.root is None and skeleton.family == "toy"


def test_formats_of_one_family_share_joints_when_merged():
    h36m_17, h36m_25, fit3d_25 = (load_skeleton(name) for name in ("h36m_17", "h36m_25", "fit3d_25"))
    merged = merge_skeletons([h36m_17, h36m_25, fit3d_25])
    assert merged.num_joints == 25  # the 17 joints are among the 25
    assert merged.joint_names[:2] == ("pelvis_h36m", "right_hip_h36m")
    assert len({frozenset(edge) for edge in merged.edges}) == len(merged.edges) == 24  # 25 joints, one tree
    for fmt in (h36m_17, h36m_25, fit3d_25):
        names = plain_joint_names(merged)
        assert [names[i] for i in joint_indices(merged, fmt)] == list(fmt.joint_names)


def test_formats_of_different_families_stay_apart():
    smpl_24, coco_19 = load_skeleton("smpl_24"), load_skeleton("coco_19")
    merged = merge_skeletons([smpl_24, coco_19])
    assert merged.num_joints == 24 + 19
    np.testing.assert_array_equal(joint_indices(merged, smpl_24), np.arange(24))
    np.testing.assert_array_equal(joint_indices(merged, coco_19), 24 + np.arange(19))
    left_hip, right_hip = merged.index("left_hip_coco"), merged.index("right_hip_coco")
    assert (left_hip, right_hip) == (24 + 6, 24 + 12)
    assert merged.mirror[left_hip] == right_hip and left_hip in merged.left and right_hip not in merged.left
    assert (merged.index("neck_coco"), merged.index("pelvis_coco")) in merged.edges


def test_merging_merged_formats_again_changes_nothing():
    smpl_24, arm = load_skeleton("smpl_24"), skeleton_from_dict(ARM)
    merged = merge_skeletons([smpl_24, arm])
    assert merge_skeletons([merged, smpl_24]) == merged
    np.testing.assert_array_equal(joint_indices(merged, merged), np.arange(27))


def test_merge_refuses_what_has_no_meaning():
    with pytest.raises(ValueError, match="one skeleton or more"):
        merge_skeletons([])
    other = skeleton_from_dict({**ARM, "joints": ["left_hand", "right_hand", "chest"]})
    with pytest.raises(ValueError, match="two different skeletons are called arm"):
        merge_skeletons([skeleton_from_dict(ARM), other])
    unpaired = skeleton_from_dict({"name": "one_hand", "family": "arm", "joints": ["left_hand", "chest"]})
    with pytest.raises(ValueError, match="disagree about the mirror image of right_hand_arm"):
        merge_skeletons([skeleton_from_dict(ARM), unpaired])


def test_joint_indices_names_the_joint_that_is_not_there():
    with pytest.raises(ValueError, match="no joint 'left_hand_arm'"):
        joint_indices(merge_skeletons([load_skeleton("smpl_24")]), skeleton_from_dict(ARM))


def test_averaging_matrix_takes_the_mean_over_formats():
    merged = merge_skeletons([
        skeleton_from_dict({"name": "a", "joints": ["head", "left_hand"]}),
        skeleton_from_dict({"name": "b", "joints": ["left_hand", "nose", "head"]}),
        skeleton_from_dict({"name": "c", "joints": ["left_hand"]}),
        skeleton_from_dict({"name": "c2", "family": "c", "joints": ["left_hand"]})])
    assert merged.joint_names == ("head_a", "left_hand_a", "left_hand_b", "nose_b", "head_b", "left_hand_c")
    matrix = averaging_matrix(merged, ["left_hand", "ear", "head", "nose"])
    third = np.float32(1 / 3)
    np.testing.assert_array_equal(matrix, np.float32([[0, third, third, 0, 0, third],
                                                      [0, 0, 0, 0, 0, 0],
                                                      [0.5, 0, 0, 0, 0.5, 0],
                                                      [0, 0, 0, 1, 0, 0]]))
    points = np.float32([1, 10, 20, 5, 3, 60])
    np.testing.assert_allclose(matrix @ points, [30, 0, 2, 5], rtol=1e-6)


def test_averaging_matrix_of_a_plain_format_is_a_selection():
    smpl_24 = load_skeleton("smpl_24")
    np.testing.assert_array_equal(averaging_matrix(smpl_24, smpl_24.joint_names), np.eye(24))


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown skeleton 'smpl'; known ones: smpl_24, h36m_17, .*jrdb_17"):
        load_skeleton("smpl")
    with pytest.raises(ValueError, match="skeleton arm has no joint 'nose'; it has: left_hand, chest, right_hand"):
        skeleton_from_dict(ARM).index("nose")


@pytest.mark.parametrize(("change", "message"), [
    ({"name": ""}, "needs a name"),
    ({"name": None}, "needs a name"),
    ({"name": 3}, "needs a name"),
    ({"roots": "chest"}, r"skeleton arm: unknown entries \['roots'\]; valid ones: .*'root'"),
    ({"joints": []}, "joints must be a non-empty list"),
    ({"joints": "chest"}, "joints must be a list, not 'chest'"),
    ({"joints": ["chest", 3]}, "joints must be a non-empty list of joint names"),
    ({"joints": ["chest", "left_hand", "right_hand", "chest"]}, "joints listed more than once: chest"),
    ({"joints": ["chest", "left-hand"]}, "cannot be called 'left-hand'"),
    ({"family": 3}, "family must be a non-empty string, not 3"),
    ({"mirror_pairs": "left_hand"}, "mirror_pairs must be a list"),
    ({"mirror_pairs": ["left_hand"]}, "mirror pair 'left_hand' must be two different joints"),
    ({"mirror_pairs": [["left_hand"]]}, "must be two different joints"),
    ({"mirror_pairs": [["chest", "chest"]]}, "must be two different joints"),
    ({"mirror_pairs": [["left_hand", "right_foot"]]}, "mentions 'right_foot', which is not one of its joints: left"),
    ({"mirror_pairs": [["left_hand", ["right_hand"]]]}, "mirror_pairs mentions"),
    ({"mirror_pairs": [["left_hand", "right_hand"], ["left_hand", "chest"]]}, "is in another mirror pair, too"),
    ({"edges": {"chest": "left_hand"}}, "edges must be a list"),
    ({"edges": ["chest"]}, "edge 'chest' must be two or more joints joined by hyphens"),
    ({"edges": [["chest", "left_hand"]]}, "must be two or more joints"),
    ({"edges": ["chest-left_foot"]}, "edges mentions 'left_foot'"),
    ({"edges": ["chest-chest"]}, "joins a joint to itself"),
    ({"root": "pelvis"}, "root mentions 'pelvis'"),
    ({"root": 1}, "root mentions 1"),
])
def test_bad_definitions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        skeleton_from_dict({**ARM, **change})


@pytest.mark.parametrize(("definition", "message"), [
    (["smpl_24"], "the name of a known format or a table"),
    (None, "the name of a known format or a table"),
    ({"merge": "smpl_24"}, "merge must be a list"),
    ({"merge": []}, "one skeleton or more"),
    ({"merge": ["smpl"]}, "unknown skeleton 'smpl'"),
    ({"merge": ["smpl_24"], "joints": ["head"]}, "takes name and merge only, not joints"),
])
def test_bad_forms_of_a_skeleton_are_refused(definition, message):
    with pytest.raises(ValueError, match=message):
        skeleton_from_dict(definition)


def test_left_of_a_skeleton_built_by_hand_is_the_lower_index():
    skeleton = Skeleton(name="hands", family="hands", joint_names=("a", "b", "c"), mirror=(2, 1, 0), edges=())
    assert skeleton.left == (0,)


def test_averaging_without_any_2d_joint():
    merged = merge_skeletons([load_skeleton("h36m_17")])
    assert averaging_matrix(merged, []).shape == (0, 17)
