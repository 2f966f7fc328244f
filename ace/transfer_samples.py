"""What the fit of a new skeleton reads: poses that have both the autoencoder's joints and labels of the new one.

The file, an .npz, has for n poses, J known joints, L latent points and K new joints, each of its arrays in one camera
frame per pose:

    joints3d [n, J, 3] camera space, mm, nan where missing; optionally joint_names [J], joints3d_mask [n, J] bool
        or latents3d [n, L, 3]
    new_joints3d [n, K, 3] mm, nan where missing
        or new_joints2d [n, K, 2] px and intrinsics [n, 3, 3]
    optionally new_joint_names [K], and skeleton, the new format's definition as JSON text
"""

import dataclasses
import json
import os
import pathlib
import tomllib

import numpy as np

from ace.autoencoder import AffineAutoencoder
from ace.files import read_npz
from ace.poses import center_poses, evenly_spread
from posepile.geometry.skeleton import Skeleton, load_skeleton, skeleton_from_dict

MIN_POSES = 25
MAX_POSES = 1000  # evenly spread; more hardly lower the error, but the time grows faster than their number
MIN_EXTENT_MM = 10.0  # a median pose below that is in metres
MAX_OFFSET = 2.0  # person sizes between the labels' centre and the person's, beyond which something is wrong
ARRAYS = ("joints3d", "joints3d_mask", "latents3d", "new_joints3d", "new_joints2d", "intrinsics")


@dataclasses.dataclass(frozen=True)
class Samples:
    """Poses as the fit reads them.

    Attributes:
        index: [n] of the poses in the arrays given.
        latents: [n, L, 3] mm.
        depth: [n] mean depth of the person, mm.
        rays: [n, K, 2] x/z and y/z of the labels; nan where there is none.
        label_depth: [n, K] mm; nan for 2D labels.
    """

    index: np.ndarray
    latents: np.ndarray
    depth: np.ndarray
    rays: np.ndarray
    label_depth: np.ndarray

    def take(self, indices: np.ndarray) -> "Samples":
        return Samples(*(getattr(self, field.name)[indices] for field in dataclasses.fields(self)))


def read_skeleton(name_or_path: str) -> Skeleton:
    """A known format by its name, or one defined in a .toml file: name, joints, mirror_pairs, edges, root.

    Raises: FileNotFoundError; ValueError naming the file and what is wrong with it.
    """
    if not name_or_path.endswith(".toml"):
        return load_skeleton(name_or_path)
    try:
        return skeleton_from_dict(tomllib.loads(pathlib.Path(name_or_path).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"--skeleton: {name_or_path}: {error}") from error


def read_samples(path: str | os.PathLike, autoencoder: AffineAutoencoder,
                 skeleton: Skeleton | None) -> tuple[dict[str, np.ndarray], Skeleton]:
    """Reads a file as above.

    Args: skeleton: of the new joints; None: the one that the file defines.
    Returns: the arrays as `checked_samples` takes them, and the new skeleton.
    Raises: FileNotFoundError; ValueError naming the file if it is none, or for joints in another order.
    """
    try:
        arrays = read_npz(path)
        if skeleton is None:
            if "skeleton" not in arrays:
                raise ValueError("it defines no skeleton; give --skeleton=FILE.toml")
            skeleton = skeleton_from_dict(json.loads(str(arrays["skeleton"])))
        _check_names(arrays.get("joint_names"), autoencoder.joint_names, "joint_names", "the autoencoder")
        _check_names(arrays.get("new_joint_names"), skeleton.joint_names, "new_joint_names", f"the skeleton {skeleton.name}")
    except ValueError as error:
        raise ValueError(f"--poses: {os.fspath(path)}: {error}") from error
    return {name: arrays[name] for name in ARRAYS if name in arrays}, skeleton


def checked_samples(autoencoder: AffineAutoencoder, skeleton: Skeleton, *, joints3d=None, joints3d_mask=None,
                    latents3d=None, new_joints3d=None, new_joints2d=None, intrinsics=None) -> Samples:
    """Poses that have known and new joints, at most `MAX_POSES`, from arrays as in the file above.

    Raises: ValueError for arrays that do not fit, saying what to do.
    """
    if skeleton.formats:
        raise ValueError(f"the new skeleton {skeleton.name} is merged from several formats; add them one by one")
    if (joints3d is None) == (latents3d is None):
        raise ValueError("expected either joints3d or latents3d, the poses in what the autoencoder knows")
    if (new_joints3d is None) == (new_joints2d is None):
        raise ValueError("expected either new_joints3d or new_joints2d, the labels of the new skeleton")
    if (new_joints2d is None) != (intrinsics is None):
        raise ValueError("new_joints2d and intrinsics [n, 3, 3] go together: of the cameras that see the px")
    if latents3d is not None and joints3d_mask is not None:
        raise ValueError("joints3d_mask belongs to joints3d; latents3d have to be whole")
    name, known = ("joints3d", joints3d) if latents3d is None else ("latents3d", latents3d)
    known = _checked_array(name, known, (autoencoder.num_joints if latents3d is None else autoencoder.num_latents, 3))
    new_name, labels, size = (("new_joints3d", new_joints3d, 3) if new_joints2d is None
                              else ("new_joints2d", new_joints2d, 2))
    labels = _checked_array(new_name, labels, (skeleton.num_joints, size), len(known))
    mask = np.isfinite(known).all(axis=-1)
    if joints3d_mask is not None:
        joints3d_mask = np.asarray(joints3d_mask)
        if joints3d_mask.shape != mask.shape or joints3d_mask.dtype != bool:
            raise ValueError(f"joints3d_mask is {joints3d_mask.dtype} {list(joints3d_mask.shape)}; expected bool "
                             f"{list(mask.shape)}")
        mask &= joints3d_mask
    _check_in_front(name, known, mask)
    has_known = mask.any(axis=1) if latents3d is None else mask.all(axis=1)
    is_labelled = np.isfinite(labels).all(axis=-1)
    keep = np.flatnonzero(has_known & is_labelled.any(axis=1))
    if len(keep) < MIN_POSES:
        raise ValueError(f"{len(keep)} of {len(known)} poses have both known and new joints; expected {MIN_POSES} at the "
                         "very least, and a few hundred for a good fit")
    keep = keep[evenly_spread(len(keep), MAX_POSES)]
    known, mask, labels, is_labelled = known[keep], mask[keep], labels[keep], is_labelled[keep]
    count = is_labelled.sum(axis=0)
    count = np.where(np.array(skeleton.mirror) == np.arange(len(count)), count, count + count[list(skeleton.mirror)])
    if (count < MIN_POSES).any():
        raise ValueError(f"too few labels, those of the mirror image included: expected {MIN_POSES} or more of each joint, "
                         "got " + ", ".join(f"{skeleton.joint_names[j]} {count[j]}"
                                            for j in np.flatnonzero(count < MIN_POSES)[:8]))
    center, _ = center_poses(known, mask)
    depth, extent = center[:, 0, 2], pose_extents(known, mask)
    _check_millimetres(name, extent)
    if new_joints2d is None:
        _check_in_front(new_name, labels, is_labelled)
        if skeleton.num_joints > 1:
            _check_millimetres(new_name, pose_extents(labels, is_labelled))
        rays, label_depth = labels[..., :2] / labels[..., 2:], labels[..., 2]
    else:
        inverse = _inverse_intrinsics(_checked_array("intrinsics", intrinsics, (3, 3), len(has_known))[keep])
        rays = np.einsum("nij,nkj->nki", inverse, np.concatenate([labels, np.ones_like(labels[..., :1])], axis=-1))[..., :2]
        label_depth = np.full(rays.shape[:2], np.nan)
    latents = known if latents3d is not None else autoencoder.encode(known, None if mask.all() else mask)
    _check_in_front("latent points of joints3d" if latents3d is None else name, latents, np.ones(latents.shape[:2], bool))
    label_center = center_poses(rays, is_labelled)[0][:, 0]
    offset = np.median(np.linalg.norm(label_center * depth[:, None] - center[:, 0, :2], axis=-1) / extent)
    if offset > MAX_OFFSET:
        raise ValueError(f"{new_name} lie {offset:.1f} person sizes (median) away from the known joints. Both have to be "
                         "in the same camera's frame, 3D in mm and 2D in px of the image that the intrinsics belong to.")
    return Samples(keep, latents, depth, rays, label_depth)


def pose_extents(points, mask):
    """[n] mm: the longest side of the box around each pose."""
    low, high = (np.where(mask[..., None], points, fill) for fill in (np.inf, -np.inf))
    return np.maximum((high.max(axis=1) - low.min(axis=1)).max(axis=-1), 1e-9)



def _checked_array(name, array, shape, num=None):
    """As float64, [n, *shape]."""
    array = np.asarray(array)
    if array.ndim != 3 or array.shape[1:] != shape or num not in (None, len(array)) or array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}; expected numbers "
                         f"[{'n' if num is None else num}, {shape[0]}, {shape[1]}]")
    if np.isinf(array).any():
        raise ValueError(f"{name}[{np.argwhere(np.isinf(array))[0][0]}] is infinite; a missing joint is nan")
    return array.astype(np.float64)


def _check_in_front(name, points, mask):
    if len(bad := np.argwhere(mask & (points[..., 2] <= 0))):
        pose, joint = bad[0]
        raise ValueError(f"{name}[{pose}, {joint}] is behind the camera, z = {points[pose, joint, 2]:.1f} mm ({len(bad)} such "
                         "points in all). Poses have to be in camera space; make implausible ones nan.")


def _check_millimetres(name, extent):
    if (median := np.median(extent)) < MIN_EXTENT_MM:
        raise ValueError(f"the median pose of {name} is {median:.3g} mm across, as if it were in metres. Millimetres are "
                         "expected: multiply by 1000.")


def _inverse_intrinsics(intrinsics):
    good = np.isfinite(intrinsics).all(axis=(1, 2)) & np.isclose(intrinsics[:, 2], [0, 0, 1]).all(axis=1)
    good &= (intrinsics[:, 0, 0] > 0) & (intrinsics[:, 1, 1] > 0)
    if not good.all():
        raise ValueError("intrinsics have to be [[fx, skew, cx], [0, fy, cy], [0, 0, 1]], px; got "
                         f"{intrinsics[np.argmin(good)].tolist()}")
    return np.linalg.inv(intrinsics)


def _check_names(names, expected, what, whose):
    if names is None:
        return
    names = names.tolist()
    if len(names) != len(expected):
        raise ValueError(f"{what} has {len(names)} names, {whose} has {len(expected)} joints")
    for j, (name, other) in enumerate(zip(names, expected, strict=True)):
        if name != other:
            raise ValueError(f"{what}: joint {j} is {name!r}, but {other!r} in {whose}")
