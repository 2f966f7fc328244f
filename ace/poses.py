"""Poses: reading them from files, choosing among them, centering them."""

import os

import numpy as np

from ace.files import read_npz
from posepile.geometry.skeleton import Skeleton


def read_poses(path: str | os.PathLike, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray | None]:
    """`joints3d` [n, num_joints, 3] and, if the file has it, `joints3d_mask` [n, num_joints].

    Raises: ValueError if the file is no such .npz or belongs to another joint list.
    """
    try:
        arrays = read_npz(path)
        if "joints3d" not in arrays:
            raise ValueError(f"it has no array joints3d, only: {', '.join(arrays)}")
    except ValueError as error:
        raise ValueError(f"--poses: cannot read poses from {os.fspath(path)}: {error}") from error
    poses, masks = arrays["joints3d"], arrays.get("joints3d_mask")
    names = arrays.get("joint_names", np.array(skeleton.joint_names)).tolist()
    if poses.ndim != 3 or poses.shape[1:] != (skeleton.num_joints, 3):
        raise ValueError(f"--poses: joints3d in {os.fspath(path)} has shape {list(poses.shape)}; expected "
                         f"[n, {skeleton.num_joints}, 3] for {skeleton.name}")
    if masks is not None and (masks.shape != poses.shape[:2] or masks.dtype != bool):
        raise ValueError(f"--poses: joints3d_mask in {os.fspath(path)} has shape {list(masks.shape)} and dtype "
                         f"{masks.dtype}; expected bool {list(poses.shape[:2])}")
    if names != list(skeleton.joint_names):
        differing = [f"{a} instead of {b}" for a, b in zip(names, skeleton.joint_names, strict=False) if a != b]
        raise ValueError(f"--poses: the joint_names in {os.fspath(path)} are not those of {skeleton.name}: "
                         + (f"{differing[0]}" if differing else f"{len(names)} names"))
    return poses, masks


def evenly_spread(num: int, most: int) -> np.ndarray:
    """At most `most` of `num` positions, [n] int64, rising, from the first one to the last one at equal distances."""
    return np.unique(np.linspace(0, num - 1, min(num, most)).astype(np.int64))


def center_poses(points: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Poses relative to the mean of their valid joints.

    Args: points: [..., num_joints, d]; mask: [..., num_joints] bool, or None if all are valid.
    Returns: the means [..., 1, d], and [..., num_joints, d] relative to them, 0 where the mask is False.
    """
    if mask is None:
        center = points.mean(axis=-2, keepdims=True)
        return center, points - center
    points = np.where(mask[..., None], points, 0)
    count = np.maximum(mask.sum(axis=-1), 1)[..., None, None]
    center = (points.sum(axis=-2, keepdims=True) / count).astype(points.dtype)
    return center, np.where(mask[..., None], points - center, 0)
