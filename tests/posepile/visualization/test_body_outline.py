import cv2
import numpy as np

from posepile.geometry.skeleton import load_skeleton
from posepile.visualization import body_outline as module
from posepile.visualization.body_outline import body_outline, outlined_joints


def decoded(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_joints_of_the_common_formats_have_a_place():
    for name in ("smpl_24", "h36m_17", "h36m_25", "mpi_inf_3dhp_17", "mpi_inf_3dhp_28", "coco_19", "body_25", "smplx_42"):
        joints = load_skeleton(name).joint_names
        assert outlined_joints(joints) == list(joints)


def test_right_is_the_mirror_image_of_left_and_joints_lie_apart():
    for name in ("smpl_24", "h36m_17", "mpi_inf_3dhp_28", "coco_19"):
        skeleton = load_skeleton(name)
        places = [module._position(joint) for joint in skeleton.joint_names]
        assert [(-x, y) for x, y in places] == [places[i] for i in skeleton.mirror]
        assert len(set(places)) == len(places)
        assert all(places[i][0] > 0 for i in skeleton.left)  # seen from the front: on the right of the picture
        heights = {joint: y for joint, (_, y) in zip(skeleton.joint_names, places, strict=True)}
        assert heights["left_ankle"] < heights["left_knee"] < heights["left_hip"] < heights["left_shoulder"]


def test_a_large_error_is_dark_where_the_joint_is():
    plain = decoded(body_outline({"format": {"left_wrist": 0.0, "right_wrist": 0.0, "pelvis": 10.0}}))
    marked = decoded(body_outline({"format": {"left_wrist": 10.0, "right_wrist": 0.0, "pelvis": 10.0}}))
    rows, columns = np.nonzero(np.abs(plain - marked).sum(axis=-1) > 60)
    body = np.nonzero((np.abs(plain - 255).sum(axis=-1) > 10) & (np.arange(plain.shape[1]) < 0.85 * plain.shape[1]))
    middle = (body[1].min() + body[1].max()) / 2
    assert columns.min() > middle and 0.3 * plain.shape[0] < rows.mean() < 0.7 * plain.shape[0]
    disc = marked[rows.min():rows.max(), columns.min():columns.max()]
    assert ((disc[..., 0] > 100) & (disc[..., 1] < 30)).any()  # dark red


def test_unknown_joints_and_undefined_errors():
    errors = {"left_wrist": float("nan"), "right_wrist": None, "gill": 5.0, "pelvis": float("inf")}
    assert outlined_joints(errors) == ["left_wrist", "right_wrist", "pelvis"]
    assert len(body_outline({"one": errors, "two": {}}))


def test_many_formats_take_several_rows():
    one, five = (decoded(body_outline({str(i): {"pelvis": 1.0} for i in range(count)})) for count in (1, 5))
    assert five.shape[0] > 1.8 * one.shape[0] and five.shape[1] > 3 * one.shape[1]
