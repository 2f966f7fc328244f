"""Metrics of 3D human pose: vectorised, numpy only, computed in float64.

Every metric is a function of the same four arguments, plus a threshold where it has one:

    joints3d_pred  [..., num_joints, 3] predictions, camera space, mm; any leading axes, one pose each
    joints3d_true  like joints3d_pred: the annotations
    validity       [..., num_joints] bool: which annotations count; None: all of them
    root           index of the joint that root-relative metrics subtract from both poses; None, for formats without
                   such a joint: the mean of the pose's valid joints is subtracted

What is counted, and what happens where a metric is not defined:

* Means and shares are pooled over all valid joints of all poses, the root included; CPS over the poses. Thresholds are
  strict.
* A pose without a valid joint contributes nothing. What stands in a joint that is not valid has no influence.
* A prediction that is not finite (nan, inf) at a valid joint never drops out. The joint counts as infinitely wrong in
  PCK, AUC and CPS (in the root-relative ones the whole pose does if it is the root, or if `root` is None), and MPJPE,
  N-MPJPE, PA-MPJPE and A-MPJPE are undefined: nan.
* A pose whose root is not valid has no root-relative annotation: it is left out of MPJPE, N-MPJPE, PCK, AUC and CPS.
* A pose with fewer than 3 valid joints does not determine a rotation: it is left out of PA-MPJPE.
* With nothing to average, a metric is nan.

`count_poses` says how many poses each of these rules met. An annotation that is valid and not finite is refused
everywhere.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from posepile.evaluation.statistics import PoseSums

PCK_THRESHOLDS_MM = (50, 100, 150)
AUC_THRESHOLDS_MM = (50, 100, 150)
CPS_THRESHOLDS_MM = (100, 150, 200)
APCK_THRESHOLDS_MM = (150, 300)
AUC31_THRESHOLDS_MM = np.arange(0.0, 151.0, 5.0)
"""Of the MPI-INF-3DHP and MuPoTS-3D benchmarks."""

MIN_JOINTS_FOR_ALIGNMENT = 3
POSE_COUNTS = ("num_poses", "num_undefined")  # beside the metrics; all counts: `count_poses`

_SHARES = ("pck", "apck", "auc", "aauc", "cps", "ncps", "recall")  # how the names of metrics in percent begin
_LARGEST_MM = 1e100  # what is larger counts as not finite: its square would not be
_CHUNK_POSES = 2048  # keeps the temporaries in the processor's cache: 1.5 times as fast as all at once


@dataclasses.dataclass(frozen=True)
class JointDistances:
    """Distances between predicted and annotated joints; every metric is a mean, share or maximum of them.

    Attributes: all [num_poses, num_joints].
        relative: both poses moved to the origin by their root; mm, inf where the prediction is not finite.
        scaled: like relative, each predicted pose scaled by its best factor.
        absolute: camera space.
        aligned: each predicted pose moved by its best similarity transform.
        validity: bool, for `absolute`.
        relative_validity: bool, for `relative` and `scaled`: without poses whose root is not valid.
        aligned_validity: bool, for `aligned`: without poses of fewer than 3 valid joints.
    """

    relative: np.ndarray
    scaled: np.ndarray
    absolute: np.ndarray
    aligned: np.ndarray
    validity: np.ndarray
    relative_validity: np.ndarray
    aligned_validity: np.ndarray

    def select(self, *index) -> "JointDistances":
        """The same of some poses, or of some joints: `index` applies to the axes [num_poses, num_joints]."""
        return JointDistances(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


def mpjpe(joints3d_pred, joints3d_true, validity=None, root=0) -> float:
    """Mean per joint position error, root-relative; mm."""
    return _mean(*_relative(joints3d_pred, joints3d_true, validity, root))


def n_mpjpe(joints3d_pred, joints3d_true, validity=None, root=0) -> float:
    """MPJPE after scaling each root-relative prediction by its least-squares factor; mm.

    The factor is sum_j <p_j, g_j> / sum_j <p_j, p_j> over the valid joints (Rhodin et al., CVPR 2018).
    """
    pred, true, validity = check_poses(joints3d_pred, joints3d_true, validity, root)
    relative_pred, relative_true, validity = _subtract_root(pred, true, validity, root)
    return _mean(_scaled_distance(relative_pred, relative_true, validity), validity)


def pa_mpjpe(joints3d_pred, joints3d_true, validity=None, root=0) -> float:
    """MPJPE after `procrustes_align`; mm. `root` has no influence; the root joint counts like every other."""
    pred, true, validity = check_poses(joints3d_pred, joints3d_true, validity, root)
    validity = validity & _can_align(validity)
    return _mean(_aligned_distance(pred, true, validity), validity)


def a_mpjpe(joints3d_pred, joints3d_true, validity=None, root=0) -> float:
    """Mean per joint position error in camera space; mm. `root` has no influence."""
    pred, true, validity = check_poses(joints3d_pred, joints3d_true, validity, root)
    return _mean(_norm(pred - true), validity)


def pck(joints3d_pred, joints3d_true, validity=None, root=0, threshold=150.0) -> float:
    """Percentage of joints with a root-relative distance of less than `threshold` mm."""
    distance, validity = _relative(joints3d_pred, joints3d_true, validity, root)
    return _mean(_below(distance, threshold), validity)


def apck(joints3d_pred, joints3d_true, validity=None, root=0, threshold=150.0) -> float:
    """Percentage of joints with a distance in camera space of less than `threshold` mm. `root` has no influence."""
    pred, true, validity = check_poses(joints3d_pred, joints3d_true, validity, root)
    return _mean(_below(_norm(pred - true), threshold), validity)


def auc(joints3d_pred, joints3d_true, validity=None, root=0, threshold=150.0) -> float:
    """Area under the PCK curve from 0 to `threshold` mm, exact: 100 mean(max(0, 1 - d / threshold))."""
    distance, validity = _relative(joints3d_pred, joints3d_true, validity, root)
    return _mean(_ramp(distance, threshold), validity)


def auc31(joints3d_pred, joints3d_true, validity=None, root=0) -> float:
    """Mean of PCK over the 31 thresholds 0, 5, ..., 150 mm, as the MPI-INF-3DHP and MuPoTS-3D benchmarks define it.

    No distance is below the threshold 0: perfect predictions score 30/31, 96.77.
    """
    distance, validity = _relative(joints3d_pred, joints3d_true, validity, root)
    return _mean(_steps31(distance), validity)


def cps(joints3d_pred, joints3d_true, validity=None, root=0, threshold=200.0) -> float:
    """Correct pose score: percentage of poses with every valid joint off by less than `threshold` mm.

    Root-relative, not aligned: not the score of that name of Wandt et al. (CVPR 2021), which aligns the poses first.
    """
    worst, has_joint = _worst(*_relative(joints3d_pred, joints3d_true, validity, root))
    return _mean(_below(worst, threshold), has_joint)


def cps_auc(joints3d_pred, joints3d_true, validity=None, root=0, threshold=200.0) -> float:
    """Area under the CPS curve from 0 to `threshold` mm, exact: 100 mean(max(0, 1 - worst distance / threshold))."""
    worst, has_joint = _worst(*_relative(joints3d_pred, joints3d_true, validity, root))
    return _mean(_ramp(worst, threshold), has_joint)


def procrustes_align(joints3d_pred, joints3d_true, validity=None) -> np.ndarray:
    """Moves each predicted pose onto the true one by the best rotation, translation and scale; never by a reflection.

    Args: see the module. Joints that are not valid are moved along, but not fitted.

    Returns: [..., num_joints, 3] float64, mm; nan for poses with fewer than 3 valid joints or with a valid joint whose
        prediction is not finite. Where the rotation stays open (all points on a line or in one place) it is one of the
        best ones.
    Source: Umeyama, PAMI 1991, Eqs. 40-42.
    """
    shape = np.shape(joints3d_pred)
    pred, true, validity = check_poses(joints3d_pred, joints3d_true, validity, None)
    is_defined = _can_align(validity) & _is_finite(pred)[:, None]
    weights = (validity & is_defined)[..., None].astype(np.float64)
    rotation, scale, mean_pred, mean_true = _fit_similarity(np.where(weights > 0, pred, 0.0), true, weights)
    moved = np.asarray(joints3d_pred, np.float64).reshape(pred.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        aligned = scale * ((moved - mean_pred) @ rotation) + mean_true
    return np.where(is_defined[..., None], aligned, np.nan).reshape(shape)


def joint_distances(joints3d_pred, joints3d_true, validity=None, root=0) -> JointDistances:
    """All distances at once; leading axes are flattened. Args, Raises: see the module and `compute_metrics`."""
    pred, true, validity = _check_shapes(joints3d_pred, joints3d_true, validity, root)
    chunks = []
    for start in range(0, max(len(pred), 1), _CHUNK_POSES):
        p, g, v = _clean(*(array[start:start + _CHUNK_POSES] for array in (pred, true, validity)), first_pose=start)
        relative_pred, relative_true, relative_validity = _subtract_root(p, g, v, root)
        aligned_validity = v & _can_align(v)
        chunks.append(JointDistances(
            relative=_norm(relative_pred - relative_true),
            scaled=_scaled_distance(relative_pred, relative_true, relative_validity),
            absolute=_norm(p - g),
            aligned=_aligned_distance(p, g, aligned_validity),
            validity=v, relative_validity=relative_validity, aligned_validity=aligned_validity))
    return pool_distances(chunks)


def pool_distances(parts: Iterable[JointDistances]) -> JointDistances:
    """Several sets of poses as one; where the numbers of joints differ, the missing ones are not valid."""
    parts = list(parts)
    num_joints = max(part.validity.shape[1] for part in parts)
    return JointDistances(*(
        np.concatenate([_pad_joints(getattr(part, field.name), num_joints) for part in parts])
        for field in dataclasses.fields(JointDistances)))


def value_limits(names: Iterable[str]) -> tuple[float, np.ndarray]:
    """The lowest and the highest [num_metrics] value that metrics can have: 0 to 100 for shares, else 0 and more."""
    return 0.0, np.array([100.0 if name.startswith(_SHARES) else np.inf for name in names])


def pose_sums(distances: JointDistances) -> PoseSums:
    """What every pose adds to the metrics of `compute_metrics`, each of which is a ratio of sums."""
    relative, absolute = distances.relative, distances.absolute
    relative_validity, validity = distances.relative_validity, distances.validity
    worst, has_joint = _worst(relative, relative_validity)
    terms = {
        "mpjpe": (relative, relative_validity),
        "pa_mpjpe": (distances.aligned, distances.aligned_validity),
        "n_mpjpe": (distances.scaled, relative_validity),
        "a_mpjpe": (absolute, validity),
        **{f"pck{t}": (_below(relative, t), relative_validity) for t in PCK_THRESHOLDS_MM},
        **{f"auc{t}": (_ramp(relative, t), relative_validity) for t in AUC_THRESHOLDS_MM},
        "auc31": (_steps31(relative), relative_validity),
        **{f"cps{t}": (_below(worst, t), has_joint) for t in CPS_THRESHOLDS_MM},
        **{f"cps_auc{t}": (_ramp(worst, t), has_joint) for t in CPS_THRESHOLDS_MM},
        **{f"apck{t}": (_below(absolute, t), validity) for t in APCK_THRESHOLDS_MM},
    }
    sums, counts = zip(*(_pose_sum(*term) for term in terms.values()), strict=True)
    return PoseSums(tuple(terms), np.stack(sums), np.stack(counts))


def summarize(distances: JointDistances, sums: PoseSums | None = None) -> dict[str, float | int]:
    """All metrics of `compute_metrics`, from the distances: of a whole benchmark, or of a part picked by `select`.

    Args: sums: `pose_sums(distances)`, where they are known already.
    """
    sums, counts = sums or pose_sums(distances), count_distances(distances)
    return {**dict(zip(sums.names, sums.values().tolist(), strict=True)), **{name: counts[name] for name in POSE_COUNTS}}


def compute_metrics(joints3d_pred, joints3d_true, validity=None, root=0) -> dict[str, float | int]:
    """All metrics at once.

    Args: see the module.

    Returns: `mpjpe`, `pa_mpjpe`, `n_mpjpe`, `a_mpjpe` in mm; `pck50`, `pck100`, `pck150`, `auc50`, `auc100`, `auc150`
        (continuous), `auc31`, `cps100`, `cps150`, `cps200`, `cps_auc100`, `cps_auc150`, `cps_auc200`, `apck150`,
        `apck300` in 0..100; `num_poses`: poses with a valid joint; `num_undefined`: those of them that some metric is
        not defined for, see the module and `count_poses`.
    Raises: ValueError for shapes that do not fit together, a root outside the skeleton, or a valid annotation that is
        not finite.
    """
    return summarize(joint_distances(joints3d_pred, joints3d_true, validity, root))


def count_poses(joints3d_pred, joints3d_true, validity=None, root=0) -> dict[str, int]:
    """How many poses are scored, and how many fall under each exception (see the module), maybe under several.

    Returns: `num_poses` with a valid joint; of these, `num_undefined` that one or more of the following apply to,
        `num_nonfinite` (predicted nan or inf at a valid joint), `num_without_root` (root not valid), `num_unaligned`
        (fewer than 3 valid joints). Beside them: `num_empty`, without any valid joint.
    """
    return count_distances(joint_distances(joints3d_pred, joints3d_true, validity, root))


def count_distances(distances: JointDistances) -> dict[str, int]:
    """`count_poses`, from the distances."""
    return {name: int(np.count_nonzero(is_counted)) for name, is_counted in pose_flags(distances).items()}


def pose_flags(distances: JointDistances) -> dict[str, np.ndarray]:
    """Which poses `count_poses` counts: {name: [num_poses] bool}."""
    has_joint = distances.validity.any(axis=-1)
    is_nonfinite = (~np.isfinite(distances.absolute) & distances.validity).any(axis=-1)
    lacks_root = has_joint & ~distances.relative_validity.any(axis=-1)
    is_unaligned = has_joint & ~distances.aligned_validity.any(axis=-1)
    return {"num_poses": has_joint, "num_undefined": is_nonfinite | lacks_root | is_unaligned, "num_nonfinite": is_nonfinite,
            "num_without_root": lacks_root, "num_unaligned": is_unaligned, "num_empty": ~has_joint}


def check_poses(joints3d_pred, joints3d_true, validity=None, root=None):
    """Checks the arguments that every metric takes.

    Returns: joints3d_pred, joints3d_true [num_poses, num_joints, 3] float64 mm, 0 where not valid; validity
        [num_poses, num_joints] bool.
    Raises: ValueError for shapes that do not fit together, a root outside the skeleton, or a valid annotation that is
        not finite.
    """
    return _clean(*_check_shapes(joints3d_pred, joints3d_true, validity, root))


def _pad_joints(array, num_joints):
    missing = num_joints - array.shape[1]
    return np.pad(array, ((0, 0), (0, missing))) if missing else array


def _check_shapes(joints3d_pred, joints3d_true, validity, root):
    """Returns the arguments of a metric as [num_poses, num_joints(, 3)]."""
    pred, true = np.asarray(joints3d_pred), np.asarray(joints3d_true)
    if pred.ndim < 2 or pred.shape[-1] != 3 or pred.shape[-2] == 0:
        raise ValueError(f"joints3d_pred must be [..., num_joints, 3]; got shape {list(pred.shape)}")
    if true.shape != pred.shape:
        raise ValueError(f"joints3d_pred and joints3d_true must have one shape; got {list(pred.shape)} and "
                         f"{list(true.shape)}. Compare the same poses in the same joint format.")
    num_joints = pred.shape[-2]
    if validity is None:
        validity = np.ones(pred.shape[:-1], bool)
    validity = np.asarray(validity)
    if validity.shape != pred.shape[:-1]:
        raise ValueError(f"validity must be {list(pred.shape[:-1])}, one flag per joint; "
                         f"got shape {list(validity.shape)}")
    if validity.dtype != bool:
        if not np.isin(validity, (0, 1)).all():
            raise ValueError("validity must be boolean, or hold only 0 and 1")
        validity = validity.astype(bool)
    if root is not None and not -num_joints <= root < num_joints:
        raise ValueError(f"root is {root}, but the poses have {num_joints} joints: "
                         f"it must be 0..{num_joints - 1} or None")
    return pred.reshape(-1, num_joints, 3), true.reshape(-1, num_joints, 3), validity.reshape(-1, num_joints)


def _clean(pred, true, validity, first_pose=0):
    """Poses as float64, with 0 where they are not valid. Refuses a valid annotation that is not finite."""
    pred, true = pred.astype(np.float64, copy=False), true.astype(np.float64, copy=False)
    if not validity.all():
        pred, true = (np.where(validity[..., None], array, 0.0) for array in (pred, true))
    if not _is_finite(true).all():
        pose, joint = np.argwhere(~(np.abs(true) < _LARGEST_MM).all(axis=-1))[0]
        raise ValueError(f"joints3d_true is not finite at pose {first_pose + pose}, joint {joint} "
                         f"({true[pose, joint]}), which is marked valid. Set validity to False "
                         "where there is no annotation.")
    return pred, true, validity


def _subtract_root(pred, true, validity, root):
    """Both poses relative to their root; the pose of a root that is not valid is not valid either."""
    with np.errstate(invalid="ignore", over="ignore"):
        if root is None:
            weights = validity / np.maximum(validity.sum(axis=-1, keepdims=True), 1)
            center_pred, center_true = (np.einsum("nj,nji->ni", weights, array)[:, None] for array in (pred, true))
            return pred - center_pred, true - center_true, validity
        root = root % pred.shape[1]
        return (pred - pred[:, root:root + 1], true - true[:, root:root + 1],
                validity if validity.all() else validity & validity[:, root:root + 1])


def _relative(joints3d_pred, joints3d_true, validity, root):
    pred, true, validity = _subtract_root(*check_poses(joints3d_pred, joints3d_true, validity, root), root)
    return _norm(pred - true), validity


def _norm(difference):
    """[..., 3] -> [...] Euclidean norm; inf where it is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.sqrt(np.einsum("...i,...i->...", difference, difference))
    distance[~(distance < _LARGEST_MM)] = np.inf
    return distance


def _scaled_distance(relative_pred, relative_true, validity):
    if not validity.all():
        relative_pred, relative_true = (np.where(validity[..., None], a, 0.0) for a in (relative_pred, relative_true))
    with np.errstate(invalid="ignore", over="ignore"):
        numerator = np.einsum("nji,nji->n", relative_pred, relative_true)
        denominator = np.einsum("nji,nji->n", relative_pred, relative_pred)
        # A pose with all joints in one place stays where it is, whatever the factor.
        scale = np.divide(numerator, denominator, where=denominator != 0, out=np.zeros_like(numerator))
        scale[~np.isfinite(denominator)] = np.nan
        return _norm(scale[:, None, None] * relative_pred - relative_true)


def _is_finite(poses):
    """[num_poses, num_joints, 3] -> [num_poses]."""
    return (np.abs(poses) < _LARGEST_MM).all(axis=(1, 2))


def _can_align(validity):
    return np.count_nonzero(validity, axis=-1, keepdims=True) >= MIN_JOINTS_FOR_ALIGNMENT


def _aligned_distance(pred, true, validity):
    """[num_poses, num_joints] mm after alignment of the valid joints; inf in poses with a prediction not finite."""
    is_finite = _is_finite(pred)
    if not is_finite.all():
        pred = np.where(is_finite[:, None, None], pred, 0.0)
    weights = None if validity.all() else validity[..., None].astype(np.float64)
    rotation, scale, mean_pred, mean_true = _fit_similarity(pred, true, weights)
    distance = _norm((scale * (pred - mean_pred)) @ rotation - (true - mean_true))
    distance[~is_finite] = np.inf
    return distance


def _fit_similarity(pred, true, weights):
    """Least squares of scale (pred - mean_pred) @ rotation + mean_true against true; rows are points.

    Args: pred, true: [n, num_joints, 3] finite; weights: [n, num_joints, 1], 0 or 1, or None for all 1.

    Returns: rotation [n, 3, 3], scale [n, 1, 1], mean_pred, mean_true [n, 1, 3].
    """
    if weights is None:
        mean_pred, mean_true = (np.einsum("nji->ni", array)[:, None] / array.shape[1] for array in (pred, true))
        centered_pred, centered_true = pred - mean_pred, true - mean_true
    else:
        count = np.maximum(weights.sum(axis=1, keepdims=True), 1)
        mean_pred, mean_true = (np.swapaxes(weights, 1, 2) @ array / count for array in (pred, true))
        centered_pred, centered_true = weights * (pred - mean_pred), weights * (true - mean_true)
    u, singular_values, vt = np.linalg.svd(np.swapaxes(centered_pred, 1, 2) @ centered_true)
    # A product of determinant -1 would be a reflection: turn the axis that matters least the other way.
    sign = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)
    u[:, :, 2] *= sign[:, None]
    singular_values[:, 2] *= sign
    extent = np.einsum("nji,nji->n", centered_pred, centered_pred)
    # All points in one place: they belong at the true mean, whatever the scale.
    scale = np.divide(singular_values.sum(axis=1), extent, where=extent != 0, out=np.zeros_like(extent))
    return u @ vt, scale[:, None, None], mean_pred, mean_true


def _below(distance, threshold):
    """Percent that a distance adds to a share of distances below a threshold."""
    return 100.0 * (distance < threshold)


def _ramp(distance, threshold):
    """Percent that a distance adds to the area under the curve of such shares from 0 to the threshold."""
    if threshold <= 0:
        raise ValueError(f"the area under a curve from 0 to the threshold needs a positive threshold; got {threshold}")
    return 100.0 * np.maximum(0.0, 1.0 - distance / threshold)


def _steps31(distance):
    """Percent of the 31 thresholds that a distance is below."""
    num_steps = len(AUC31_THRESHOLDS_MM)
    return 100.0 / num_steps * (num_steps - np.searchsorted(AUC31_THRESHOLDS_MM, distance, side="right"))


def _worst(distance, validity):
    """[num_poses, num_joints] -> [num_poses, 1]: the largest distance among valid joints, and whether there are any."""
    return np.where(validity, distance, 0.0).max(axis=1, keepdims=True), validity.any(axis=1, keepdims=True)


def _pose_sum(term, validity):
    """[num_poses, n] -> [num_poses]: the sum of the valid terms, and how many they are."""
    if not validity.all():
        term = np.where(validity, term, 0.0)
    return term.sum(axis=1), np.count_nonzero(validity, axis=1).astype(np.float64)


def _mean(term, validity):
    """Mean over the valid entries; nan if there are none or one of them is not finite."""
    total, count = _pose_sum(term, validity)
    return float(PoseSums(("",), total[None], count[None]).values()[0])
