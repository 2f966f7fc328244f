import json

import numpy as np
import pytest

from posepile.geometry.skeleton import merge_skeletons, skeleton_from_dict
from posepile.prediction.extra_formats import extend_outputs, load_extra_format
from tests.posepile.small_model import ARMS, LEGS, MERGED

CUFFS = skeleton_from_dict({"name": "cuffs", "joints": ["left", "right"], "mirror_pairs": [["left", "right"]]})
WEIGHTS = np.float32([[0.25, 0.75, 0, 0, 0, 0, 0], [0.25, 0, 0.75, 0, 0, 0, 0]])


@pytest.fixture
def write(tmp_path):
    def write(name="cuffs.npz", **changes):
        arrays = {"weights": WEIGHTS, "joint_names": np.array(MERGED.joint_names), "skeleton": json.dumps(CUFFS.to_dict()),
                  "decoder": np.zeros(3), **changes}
        np.savez(tmp_path / name, **{key: value for key, value in arrays.items() if value is not None})
        return tmp_path / name

    return write


def test_joints_are_put_behind_those_of_the_model(write):
    hats = skeleton_from_dict({"name": "hats", "joints": ["top"]})
    hat_weights = np.float32([[0, 0, 0, 0, 0, 0, 1]])
    formats = [load_extra_format(write()),
               load_extra_format(write("hats.npz", weights=hat_weights, skeleton=json.dumps(hats.to_dict())))]
    skeleton, weights = extend_outputs(MERGED, formats)
    assert skeleton == merge_skeletons([ARMS, LEGS, CUFFS, hats])
    assert skeleton.joint_names == (*MERGED.joint_names, "left_cuffs", "right_cuffs", "top_hats")
    np.testing.assert_array_equal(weights, np.concatenate([WEIGHTS, hat_weights]))
    assert extend_outputs(MERGED, [])[0] == MERGED


@pytest.mark.parametrize(("changes", "message"), [
    ({"weights": None}, "it lacks weights"),
    ({"weights": WEIGHTS[:, 1:]}, r"weights are float32 \[2, 6\]; expected float32 \[2, 7\]"),
    ({"weights": WEIGHTS * 1.01}, "off by 0.01; rows sum to 1"),
    ({"weights": WEIGHTS * np.nan}, "off by nan"),
    ({"skeleton": "{}"}, "needs a name"),
    ({"skeleton": "cuffs"}, "Expecting value"),
    ({"skeleton": json.dumps(merge_skeletons([CUFFS]).to_dict())}, "merged from several formats"),
    ({"joint_names": np.array([{}])}, "pickle"),
])
def test_files_that_are_no_format(write, changes, message):
    path = write(**changes)
    with pytest.raises(ValueError, match=rf"cuffs\.npz is not an extra format: .*{message}.*`python -m ace add-skeleton`"):
        load_extra_format(path)


def test_other_files(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.npz of an extra format"):
        load_extra_format(tmp_path / "gone.npz")
    path = write()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"it is no \.npz file"):
        load_extra_format(path)


def test_formats_that_do_not_fit_the_model(write):
    cuffs = load_extra_format(write())
    with pytest.raises(ValueError, match=r"cuffs\.npz is for a model with 7 joints; this one predicts 3, of arms"):
        extend_outputs(ARMS, [cuffs])
    with pytest.raises(ValueError, match="its joint 0 is 'neck_arms', but this model predicts 'pelvis_legs'"):
        extend_outputs(merge_skeletons([LEGS, ARMS]), [cuffs])
    with pytest.raises(ValueError, match="has a format 'cuffs' already"):
        extend_outputs(MERGED, [cuffs, cuffs])
    family = json.dumps({**CUFFS.to_dict(), "family": "arms", "joints": ["left_wrist", "right"],
                         "mirror_pairs": [["left_wrist", "right"]]})
    with pytest.raises(ValueError, match="predicts left_wrist_arms already; give the skeleton a family of its own"):
        extend_outputs(MERGED, [load_extra_format(write(skeleton=family))])
