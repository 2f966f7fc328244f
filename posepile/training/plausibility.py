"""Which predicted poses are plausible, after the bone lengths of the data sets, and what is wrong with the others."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from posepile.data.records import PreparedDataset
from posepile.geometry.bone_lengths import LENGTH_RATIO, MAX_DIFFERENCE_MM, is_implausible_length
from posepile.geometry.skeleton import Skeleton, merged_joint_names

MIN_DEPTH_MM = 300.0  # nearer joints have no trustworthy projection
BOUNDS = (MIN_DEPTH_MM, LENGTH_RATIO, MAX_DIFFERENCE_MM)  # all that a judgement depends on beside the mean bone lengths
OUTCOMES = PLAUSIBLE, UNUSABLE, NOT_FINITE, TOO_NEAR, BONE_LENGTH = range(5)  # what can come out for an image
# Why an image is left out, and what is probably the matter where this happens to most images of a data set.
REASONS = {
    UNUSABLE: ("record that cannot be used", "the data set is damaged; prepare it again"),
    NOT_FINITE: ("prediction that is not finite", "the training of the initial model has diverged"),
    TOO_NEAR: (f"joint nearer than {MIN_DEPTH_MM:.0f} mm", "the initial model is not trained far enough for this data set, or "
               "its intrinsics are wrong"),
    BONE_LENGTH: ("bone length", "the initial model is not trained far enough for this data set, or the mean length of a bone "
                  "in a manifest is wrong"),
}


@dataclasses.dataclass(frozen=True)
class KnownBones:
    """The bones of known mean length.

    Attributes:
        names: the joints and who knows the length, for messages.
        joints: [num_bones, 2] int64, their ends in the merged joint list.
        mean_lengths: [num_bones], mm.
    """

    names: tuple[str, ...]
    joints: np.ndarray
    mean_lengths: np.ndarray


def known_bones(skeleton: Skeleton, datasets: Sequence[PreparedDataset]) -> KnownBones:
    """Those of all formats of the data sets, after the mean lengths in their manifests; `skeleton`: the merged joint list."""
    rows = []
    for dataset in datasets:
        for fmt in dataset.skeleton.formats or (dataset.skeleton,):
            joints = [skeleton.index(name) for name in merged_joint_names(fmt)]
            for i, j in fmt.edges:
                name = f"{fmt.joint_names[i]}-{fmt.joint_names[j]}"
                if statistics := dataset.manifest.get("bone_lengths_mm", {}).get(name):
                    mean = statistics["mean"]
                    rows.append((f"{name} of {fmt.name}, {mean:.0f} mm on average in {dataset.name}",
                                 (joints[i], joints[j]), mean))
    names, joints, means = zip(*rows, strict=True) if rows else ((), (), ())
    return KnownBones(names, np.array(joints, np.int64).reshape(-1, 2), np.array(means, np.float64))


def judge_poses(poses: np.ndarray, bones: KnownBones) -> tuple[np.ndarray, np.ndarray]:
    """Which predicted poses are plausible, and what is wrong with the others (METHOD: autoencoder).

    All joints have to be at least 300 mm in front of the camera, and no bone may have an implausible length.

    Args: poses: [n, num_joints, 3], camera frame, mm.
    Returns: [n] int64: PLAUSIBLE, NOT_FINITE, TOO_NEAR or BONE_LENGTH, the first of them that holds; and which bones have
        implausible lengths, [n, num_bones] bool.
    """
    lengths = np.linalg.norm(poses[:, bones.joints[:, 0]] - poses[:, bones.joints[:, 1]], axis=-1)
    implausible = is_implausible_length(lengths, bones.mean_lengths)
    outcome = np.select([~np.isfinite(poses).all(axis=(1, 2)), (poses[..., 2] <= MIN_DEPTH_MM).any(axis=1),
                         implausible.any(axis=1)], [NOT_FINITE, TOO_NEAR, BONE_LENGTH], PLAUSIBLE)
    return outcome, implausible
