"""Checks of single examples of a prepared data set: whether training can use them, and what about them looks wrong."""

import numpy as np

from datasets.plausibility import MIN_LABELLED_SHARE, implausible_bones, is_inside
from posepile.data import records, tfrecord
from posepile.data.records import Example, PreparedDataset
from posepile.geometry.camera import check_rigid, project
from posepile.geometry.skeleton import Skeleton

MIN_JOINTS_IN_VIEW = 4  # of a 3D pose, as in the data preparation of WACV 2023
MAX_PRINCIPAL_POINT_OFFSET = 5.0  # from the middle of the crop, in its longer sides
MIN_PERSON_SIDE = 32.0  # px
PERSON_SIDE_TOLERANCE = 0.05  # above the `person_side` of the preparation
BOX_MARGIN = 0.25  # of the box's longer side; joints that far outside of the box still agree with it
MIN_POSE_TO_BOX = 0.25  # the extent of a pose, as a share of the box's longer side


def usable_example(data: bytes, dataset: PreparedDataset, where: str) -> tuple[Example, tuple[int, int]]:
    """Reads a record.

    Args: data: with header and footer; where: file and byte offset, for messages.
    Returns: the example, and the width and height of its image.
    Raises: ValueError if training cannot use it; hostile bytes may make a library raise anything else, too.
    """
    example = records.parse_example(tfrecord.unframe_record(data, where), dataset.skeleton.num_joints, where)
    height, width = example.decode_image().shape[:2]
    if example.mask_rle is not None:
        records.decode_mask(example.mask_rle, height, width)
    check_rigid(example.world_to_camera)
    x, y, box_width, box_height = example.bbox.tolist()
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        raise ValueError(f"bbox {example.bbox.tolist()} lies outside of the image of {width} x {height} px")
    field = f"joints{dataset.kind}"
    joints = getattr(example, field)
    if joints is None:
        raise ValueError(f"{field} is missing; the data set is labelled in {dataset.kind.upper()}")
    is_missing = np.isnan(joints)
    if (is_missing.any(axis=1) != is_missing.all(axis=1)).any() or is_missing.all():
        raise ValueError(f"{field} must be nan in all coordinates of a joint or in none, and not all nan; got "
                         f"{joints.tolist()!s:.200}")
    return example, (width, height)


def suspicions(example: Example, image_size: tuple[int, int], kind: str, skeleton: Skeleton, mean_lengths: np.ndarray,
                person_side: float) -> dict[str, str]:
    """What about a usable example looks wrong.

    Args:
        image_size: width, height, px.
        kind: "3d" or "2d": of the labels.
        mean_lengths: [num_edges] mm, of the skeleton's bones; nan where unknown.
        person_side: px; a box may be as long as that, and a little longer.

    Returns: kind of suspicion -> message.
    """
    found = {}
    bbox, intrinsics, size = example.bbox.astype(np.float64), example.intrinsics.astype(np.float64), np.array(image_size)
    side = bbox[2:].max()
    if not MIN_PERSON_SIDE <= side <= (1 + PERSON_SIDE_TOLERANCE) * person_side:
        found["person size"] = (f"the box's longer side is {side:.4g} px; expected {MIN_PERSON_SIDE:.0f} or more, and no more "
                                f"than the preparation's person side, {person_side:g}")
    if np.abs(intrinsics[:2, 2] - size / 2).max() > MAX_PRINCIPAL_POINT_OFFSET * size.max():
        found["camera"] = f"the principal point {intrinsics[:2, 2].tolist()} is far from the image of {size.tolist()} px"
    if not example.provenance:
        found["provenance"] = "the record does not say where it comes from"
    with np.errstate(over="ignore", invalid="ignore"):
        if kind == "3d":
            joints3d = example.joints3d.astype(np.float64)
            if num_behind := np.count_nonzero(joints3d[:, 2] <= 0):
                found["depth"] = f"{num_behind} joints are behind the camera"
            edges = np.array(skeleton.edges, np.int64).reshape(-1, 2)
            if (wrong := implausible_bones(joints3d, edges, mean_lengths)).any():
                (i, j), mean = edges[wrong][0], mean_lengths[wrong][0]
                length = np.linalg.norm(joints3d[i] - joints3d[j])
                found["bones"] = (f"{bone_names(skeleton)[int(wrong.argmax())]} is {length:.4g} mm long, and {mean:.4g} mm on "
                                  "average")
            joints2d = project(joints3d, intrinsics)
            is_labelled = ~np.isnan(joints3d[:, 0])
            num_needed = min(MIN_JOINTS_IN_VIEW, skeleton.num_joints)
        else:
            joints2d = example.joints2d.astype(np.float64)
            is_labelled = ~np.isnan(joints2d[:, 0])
            num_needed = np.count_nonzero(is_labelled) / 2
        in_view = is_inside(joints2d, np.array([-0.5, -0.5, *size]))
        if (num_in_view := np.count_nonzero(in_view)) < num_needed:
            found["view"] = (f"{num_in_view} of {np.count_nonzero(is_labelled)} labelled joints are in the image; expected "
                             f"{num_needed:g} or more")
        num_in_box = np.count_nonzero(in_view & is_inside(joints2d, bbox, BOX_MARGIN * side))
        extent = np.ptp(joints2d[is_labelled], axis=0).max()
        if num_in_box < num_in_view / 2:
            found["box"] = f"only {num_in_box} of {num_in_view} joints in the image are in or near the box {bbox.tolist()}"
        elif is_labelled.mean() >= MIN_LABELLED_SHARE and extent < MIN_POSE_TO_BOX * side:
            found["box"] = f"the joints span {extent:.3g} px of a box of {side:.4g} px"
    return found


def bone_names(skeleton: Skeleton) -> list[str]:
    """What a manifest calls the bones, in the order of the skeleton's edges."""
    return [f"{skeleton.joint_names[i]}-{skeleton.joint_names[j]}" for i, j in skeleton.edges]
