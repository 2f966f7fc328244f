import numpy as np
import pytest

from ace.joint_weights import parse_joint_weights
from benchmarks.kinematic_poses import merged_skeleton

SKELETON = merged_skeleton("h36m_17", "coco_19")


def test_all_alike():
    assert parse_joint_weights("", SKELETON) is None


def test_balanced_formats_count_alike():
    weights = parse_joint_weights("balanced", SKELETON)
    assert weights[:17].sum() == pytest.approx(weights[17:].sum()) == pytest.approx(18)
    assert len(set(weights[:17])) == 1


def test_formats_and_joints_by_name():
    weights = parse_joint_weights("coco_19=0.5, nose_coco=4", SKELETON)
    expected = np.array([1.0] * 17 + [0.5] * 19)
    expected[SKELETON.index("nose_coco")] = 2
    np.testing.assert_allclose(weights, expected / expected.mean())


@pytest.mark.parametrize(("text", "message"), [
    ("coco=2", r"'coco' is neither a format \(h36m_17, coco_19\) nor a joint"),
    ("nose_coco", "expected FORMAT_OR_JOINT=WEIGHT"),
    ("nose_coco=-1", "at least 0"), ("nose_coco=nan", "at least 0"), ("nose_coco=x", "at least 0"),
    ("coco_19=0,h36m_17=0", "leave no joint")])
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_joint_weights(text, SKELETON)
