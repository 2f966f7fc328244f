"""The flat protocol: every metric as one mean over all poses and joints, no per-sequence or per-activity stage first.

It is the convention of the ablations in WACV 2023 (supplement S4): metric scale, all joints with the root, nothing
rescaled. What it does with poses that are partly annotated or predicted is said in `posepile.evaluation.metrics`.
"""

from collections.abc import Sequence

import numpy as np

from posepile.evaluation.metrics import count_distances, joint_distances, summarize


def evaluate(joints3d_pred, joints3d_true, validity=None, root: int | None = 0, *, sequence=None, activity=None,
             joint_names: Sequence[str] | None = None) -> dict:
    """Scores one prediction per annotated pose.

    Args:
        joints3d_pred, joints3d_true: [num_poses, num_joints, 3] camera space, mm.
        validity: [num_poses, num_joints] bool, which annotations count; None: all.
        root: index of the joint that root-relative metrics subtract; None: the mean of the valid joints.
        sequence, activity: [num_poses] labels (text or numbers), for the break-downs; None: no break-down.
        joint_names: names for `per_joint`; None: the joint numbers.

    Returns: one record:
        `metrics`: see `posepile.evaluation.metrics.compute_metrics`;
        `per_joint`, `per_sequence`, `per_activity`: {label: the same of that part}; a joint has no CPS; a group is left
        out if its labels are not given;
        `poses`: how many were scored and how many fall under an exception, see `count_poses` there;
        `stamp`: `protocol`, `averaging`, `num_joints`, `root` (its name or index).
    Raises: ValueError for arrays that do not fit together.
    """
    distances = joint_distances(joints3d_pred, joints3d_true, validity, root)
    num_poses, num_joints = distances.validity.shape
    if joint_names is None:
        joint_names = [str(j) for j in range(num_joints)]
    if len(joint_names) != num_joints or len(set(joint_names)) < num_joints:
        raise ValueError(f"joint_names must be {num_joints} different names, one per joint; got {list(joint_names)}")
    record = {
        "metrics": summarize(distances),
        "per_joint": {name: _joint_metrics(distances.select(slice(None), slice(j, j + 1)))
                      for j, name in enumerate(joint_names)},
    }
    for name, labels in (("sequence", sequence), ("activity", activity)):
        if labels is None:
            continue
        if np.shape(labels) != (num_poses,):
            raise ValueError(f"{name} must be [{num_poses}], one label per pose; got shape {list(np.shape(labels))}")
        values, group = np.unique(np.asarray(labels), return_inverse=True)
        record[f"per_{name}"] = {str(value): summarize(distances.select(group == i)) for i, value in enumerate(values)}
    stamp = {"protocol": "flat", "averaging": "all joints of all poses", "num_joints": num_joints,
             "root": "mean of the valid joints" if root is None else joint_names[root]}
    return {**record, "poses": count_distances(distances), "stamp": stamp}


def _joint_metrics(distances):
    return {name: value for name, value in summarize(distances).items() if not name.startswith("cps")}
