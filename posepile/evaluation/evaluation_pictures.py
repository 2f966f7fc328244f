"""What the report of an evaluation shows of a data set beside numbers: joints, curves, depth, truncation, and single crops."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from posepile.data.crops import crop_examples
from posepile.data.records import PreparedDataset, jpeg_size
from posepile.evaluation import metrics
from posepile.evaluation.benchmark import ScoredTruth
from posepile.evaluation.evaluation_report import Picture, Pictures, ShownCrops
from posepile.evaluation.metrics import JointDistances
from posepile.evaluation.scoring import formats_of
from posepile.geometry.camera import project
from posepile.geometry.skeleton import Skeleton
from posepile.visualization.body_outline import body_outline, outlined_joints
from posepile.visualization.error_plots import error_boxes, share_curves
from posepile.visualization.prediction_sheet import VIEW_SIDE, prediction_views

NUM_CROPS = 20
_NUM_DEPTH_BINS = 8
# Of the poses by how much of them is in the picture: label, from, and up to but not including.
_INSIDE_GROUPS = (("all", 1.0, 2.0), ("90 % or more", 0.9, 1.0), ("75-90 %", 0.75, 0.9), ("50-75 %", 0.5, 0.75),
                  ("less than 50 %", 0.0, 0.5))
_JPEG_QUALITY = 88


def draw_pictures(dataset: PreparedDataset, joints3d_pred: np.ndarray, truth: ScoredTruth, per_joint: Mapping) -> Pictures:
    """All there is. Args: as `draw_errors`."""
    return Pictures(draw_errors(dataset, joints3d_pred, truth, per_joint), draw_crops(dataset, joints3d_pred, truth))


def draw_errors(dataset: PreparedDataset, joints3d_pred: np.ndarray, truth: ScoredTruth, per_joint: Mapping) -> list[Picture]:
    """The figures over all poses.

    Args:
        joints3d_pred: [num_poses, num_joints, 3] mm, see `benchmark.predict_dataset`.
        truth: of the same poses, see `benchmark.read_scored`.
        per_joint: {format: {joint: mm}} of the record.
    """
    skeleton = dataset.skeleton
    distances = _distances(joints3d_pred, truth, skeleton)
    errors = pose_errors(list(distances.values()))
    pictures = [_joint_picture(skeleton, per_joint), _curve_picture(distances)]
    boxes = ("Boxes: the middle half of the poses, with the median; whiskers: the middle 90 %; dots: means. The MPJPE of a "
             "pose is relative to the root of each format, over all its joints.")
    depth_m = _mean_of_valid(truth.joints3d[..., 2], truth.validity) / 1000
    by_depth = np.array_split(np.argsort(depth_m)[:np.count_nonzero(np.isfinite(depth_m))], _NUM_DEPTH_BINS)
    pictures.append(Picture(
        error_boxes([(f"{depth_m[poses[0]]:.1f}-{depth_m[poses[-1]]:.1f}", errors[poses]) for poses in by_depth if len(poses)],
                    "depth of the person, m"),
        "Error over depth", f"Groups of equally many poses by the mean depth of the annotated joints. {boxes}"))
    inside = inside_shares(dataset, truth)
    by_share = [(label, errors[(inside >= low) & (inside < high)]) for label, low, high in _INSIDE_GROUPS]
    pictures.append(Picture(
        error_boxes([group for group in by_share if len(group[1])], "annotated joints inside the image"),
        "Error over truncation", f"Groups by the share of the annotated joints that lie inside the image. {boxes}"))
    return pictures


def draw_crops(dataset: PreparedDataset, joints3d_pred: np.ndarray, truth: ScoredTruth) -> list[ShownCrops]:
    """The poses with the largest errors and those in the middle, prediction and truth in the image and from two sides.

    Args: as `draw_errors`.
    """
    errors = pose_errors(list(_distances(joints3d_pred, truth, dataset.skeleton).values()))
    order = np.argsort(-np.where(np.isnan(errors), -1, errors), kind="stable")[:np.count_nonzero(~np.isnan(errors))]
    count = min(NUM_CROPS, len(order))
    middle = (len(order) - count) // 2
    return [ShownCrops(title, *_draw_some(dataset, joints3d_pred, truth, poses, errors))
            for title, poses in ((f"Worst {count}", order[:count]), (f"Median {count}", order[middle:middle + count]))]


def pose_errors(distances: Sequence[JointDistances]) -> np.ndarray:
    """MPJPE of single poses over all their formats.

    Returns: [num_poses] mm; inf where a valid joint's prediction is not finite, nan where no joint counts.
    """
    counts = sum(part.relative_validity.sum(axis=1) for part in distances)
    sums = sum(np.sum(part.relative, axis=1, where=part.relative_validity) for part in distances)
    sums = np.where(np.isfinite(sums), sums, np.inf)
    return np.divide(sums, counts, where=counts > 0, out=np.full(len(sums), np.nan))


def inside_shares(dataset: PreparedDataset, truth: ScoredTruth) -> np.ndarray:
    """How much of each person is in the picture: the stored crop ends where the image does, and shows more than the person.

    Returns: [num_poses] the share of the annotated joints that project into the stored picture; nan without any.
    """
    joints2d, sizes = [], []
    for split, position in _positions(truth):
        example = dataset.read(split, position)
        joints2d.append(project(np.float64(example.joints3d), np.float64(example.intrinsics)))
        height, width = jpeg_size(example.image)
        sizes.append((width, height))
    with np.errstate(invalid="ignore"):
        is_inside = ((np.array(joints2d) > -0.5) & (np.array(joints2d) < np.array(sizes)[:, None] - 0.5)).all(axis=-1)
    return _mean_of_valid(is_inside, truth.validity)


def _joint_picture(skeleton, per_joint):
    errors = {fmt.name: dict(zip(fmt.joint_names, per_joint[fmt.name].values(), strict=True))
              for fmt in skeleton.formats or (skeleton,)}
    caption = ("Mean distance of every joint in mm, relative to the root of its format (which is 0 by definition); front view, "
               "the person's left on the right.")
    if missing := [joint for joints in errors.values() for joint in joints if joint not in outlined_joints([joint])]:
        caption += f" Not on the outline, but in the table: {', '.join(dict.fromkeys(missing))}."
    return Picture(body_outline(errors), "Error per joint", caption, is_wide=True)


def _curve_picture(distances: Mapping[str, JointDistances]):
    pooled = metrics.pool_distances(distances.values())
    validity = pooled.relative_validity
    has_joint = validity.any(axis=1)
    curves = {"PCK, root-relative": pooled.relative[validity], "PCK after alignment": pooled.aligned[pooled.aligned_validity],
              "CPS": np.where(validity, pooled.relative, 0).max(axis=1)[has_joint]}
    if len(distances) > 1:
        curves |= {f"PCK of {name}": part.relative[part.relative_validity] for name, part in distances.items()}
    curves = {name: np.where(np.isfinite(values), values, np.inf) for name, values in curves.items() if len(values)}
    return Picture(share_curves(curves), "PCK curve",
                   "PCK: joints, CPS: poses whose worst joint is off by less than the threshold; CPS is root-relative and not "
                   "aligned.")


def _draw_some(dataset, joints3d_pred, truth, poses, errors):
    """JPEG pictures and captions of some poses."""
    positions, pictures, captions = _positions(truth), [], []
    for i in poses:
        split, position = positions[i]
        batch = crop_examples(dataset, split, [position], VIEW_SIDE)  # crops of any side turn the camera alike
        view, = prediction_views(batch["image"], batch["intrinsics"], joints3d_pred[i:i + 1], batch["joints3d"],
                                 batch["joints3d_mask"], dataset.skeleton)
        encoded, data = cv2.imencode(".jpg", view[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        assert encoded
        pictures.append(data.tobytes())
        where = ", ".join(str(truth.labels[name][i]) for name in ("sequence", "frame") if name in truth.labels)
        captions.append(f"{errors[i]:.0f} mm: {split} {position}" + (f" ({where})" if where else ""))
    return pictures, captions


def _positions(truth: ScoredTruth) -> list[tuple[str, int]]:
    """Split of each pose, and its position there: the splits stand one behind the other."""
    first = {split: int(np.flatnonzero(truth.split == split)[0]) for split in np.unique(truth.split)}
    return [(str(split), i - first[split]) for i, split in enumerate(truth.split)]


def _distances(joints3d_pred, truth: ScoredTruth, skeleton: Skeleton) -> dict[str, JointDistances]:
    return {name: metrics.joint_distances(joints3d_pred[:, joints], truth.joints3d[:, joints], truth.validity[:, joints], root)
            for name, joints, root in formats_of(skeleton)}


def _mean_of_valid(values, validity):
    counts = validity.sum(axis=1)
    return np.divide(np.sum(values, axis=1, where=validity), counts, where=counts > 0, out=np.full(len(counts), np.nan))
