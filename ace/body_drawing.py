"""The latent points on a body, from the front and from the person's left, among the joints and bones of all formats."""

import numpy as np
from matplotlib.figure import Figure

from ace.autoencoder import AffineAutoencoder
from ace.drawing import DPI
from ace.poses import evenly_spread
from ace.report import MAX_SAMPLE_POSES, latent_labels, latent_sides, valid_joints
from posepile.geometry.skeleton import Skeleton

SIDE_COLORS = {"left": (0, 140 / 255, 1), "right": (1, 120 / 255, 0), "centre": (90 / 255, 210 / 255, 60 / 255)}
BONE_COLOR, JOINT_COLOR = "0.85", "0.65"
VIEWS = {"from the front": 0, "from the person's left": 2}  # the coordinate that points right; y points down
NUM_SMALL_POSES = 4
MIN_HEIGHT_MM = 500.0  # a few joints close together are not magnified beyond
_BODY_WIDTH, _BODY_INCHES, _SMALL_INCHES, _TITLE_INCHES, _LETTER_INCHES = 3.75, 6.0, 2.45, 0.35, 0.07
_LABEL_PITCH = 0.165  # inches


def latents_figure(autoencoder: AffineAutoencoder, poses: np.ndarray, masks: np.ndarray | None = None) -> Figure:
    """Above, the most typical pose, turned to face the viewer, with named latent points; below, poses of the file.

    The first axes show the typical pose from the front, the second from the side, the others a pose each, as the camera
    sees it and from the side. Axes are in mm, y down.

    Args: poses: [n, num_joints, 3] camera space, y down, mm; masks: [n, num_joints] bool, default: what is not nan.
    """
    valid = valid_joints(autoencoder, poses, masks)
    typical = typical_pose(poses, valid, autoencoder.skeleton)
    usable = np.flatnonzero(valid.any(axis=1))
    shown = usable[evenly_spread(len(usable), NUM_SMALL_POSES)]
    labels = latent_labels(autoencoder)
    name_inches = max(1.9, 0.1 + _LETTER_INCHES * max(map(len, labels)))
    width, height = 2 * (_BODY_WIDTH + 2 * name_inches), _BODY_INCHES + _SMALL_INCHES + 2 * _TITLE_INCHES
    figure = Figure((width, height), dpi=DPI, facecolor="white")

    def add_axes(left, bottom, axes_width, axes_height, title):
        axes = figure.add_axes((left / width, bottom / height, axes_width / width, axes_height / height))
        axes.set_title(title, fontsize=9, color="0.3")
        return axes

    for k, (title, axis) in enumerate(VIEWS.items()):
        axes = add_axes(k * width / 2 + name_inches, _SMALL_INCHES + _TITLE_INCHES, _BODY_WIDTH, _BODY_INCHES, title)
        centered, latents = _turned(autoencoder, poses[typical], valid[typical], facing=True)
        _draw_body(axes, autoencoder, centered, latents, axis, dot=60)
        _name_latents(axes, labels, latent_sides(autoencoder), latents[:, [axis, 1]])
    slot = width / (2 * NUM_SMALL_POSES)
    for k, pose in enumerate(shown):
        centered, latents = _turned(autoencoder, poses[pose], valid[pose], facing=False)
        for view, (axis, title) in enumerate(((0, f"pose {pose}, from the camera"), (2, "from the side"))):
            axes = add_axes((2 * k + view) * slot, 0.05, slot, _SMALL_INCHES - 0.2, title)
            _draw_body(axes, autoencoder, centered, latents, axis, dot=14)
    return figure


def typical_pose(poses: np.ndarray, valid: np.ndarray, skeleton: Skeleton) -> int:
    """Index of the pose that is nearest to the mean pose, all turned to face the viewer.

    Only poses with as many valid joints as any come into question, and at most MAX_SAMPLE_POSES of them.
    """
    chosen = np.flatnonzero(valid.sum(axis=1) == valid.sum(axis=1).max())
    chosen = chosen[evenly_spread(len(chosen), MAX_SAMPLE_POSES)]
    joints = [np.where(valid[k, :, None], poses[k], np.nan).astype(np.float64) for k in chosen]
    turned = np.stack([(pose - np.nanmean(pose, axis=0)) @ facing_rotation(pose, skeleton).T for pose in joints])
    mean = np.ma.masked_invalid(turned).mean(axis=0).filled(0)
    return int(chosen[np.nanmean(np.linalg.norm(turned - mean, axis=-1), axis=-1).argmin()])


def facing_rotation(pose: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """[3, 3] rotation about the vertical axis y, after which the person's left points to +x: facing the camera.

    The identity where the pose, [num_joints, 3] in mm with nan for missing joints, does not tell left from right.
    """
    left = list(skeleton.left)
    x, _, z = np.nansum(pose[left] - pose[np.array(skeleton.mirror)[left]], axis=0)
    length = np.hypot(x, z)
    if length < 1:  # mm
        return np.eye(3)
    return np.array([[x, 0, z], [0, length, 0], [-z, 0, x]]) / length


def _turned(autoencoder, pose, valid, facing):
    """Joints, nan where invalid, and latent points, relative to the mean joint."""
    pose = np.where(valid[:, None], pose, np.nan).astype(np.float64)
    rotation = facing_rotation(pose, autoencoder.skeleton) if facing else np.eye(3)
    center = np.nanmean(pose, axis=0)
    return (pose - center) @ rotation.T, (autoencoder.encode(pose, valid) - center) @ rotation.T


def _draw_body(axes, autoencoder, joints, latents, axis, dot):
    points = joints[:, [axis, 1]]
    for i, j in autoencoder.skeleton.edges:
        axes.plot(*points[[i, j]].T, color=BONE_COLOR, linewidth=0.8, zorder=1)
    axes.scatter(*points.T, s=dot / 8, color=JOINT_COLOR, linewidths=0, zorder=2)
    order = np.argsort(-latents[:, 2] if axis == 0 else latents[:, 0])  # the viewer stands at z < 0, or at x > 0
    colors = [SIDE_COLORS[side] for side in latent_sides(autoencoder)]
    axes.scatter(*latents[order][:, [axis, 1]].T, s=dot, c=[colors[k] for k in order], edgecolors="0.15", linewidths=0.5,
                 zorder=3)
    everything = np.concatenate([points[np.isfinite(points).all(axis=1)], latents[:, [axis, 1]]])
    low, high = everything.min(axis=0), everything.max(axis=0)
    middle, size = (low + high) / 2, np.array(axes.get_window_extent().size)  # px
    half = 0.54 * max(MIN_HEIGHT_MM / size[1], *((high - low) / size)) * size
    axes.set_xlim(middle[0] - half[0], middle[0] + half[0])
    axes.set_ylim(middle[1] + half[1], middle[1] - half[1])
    axes.set_axis_off()


def _name_latents(axes, labels, sides, points):
    """Names beside the body, half of them on each side, in the order of the dots' heights, with thin lines to the dots."""
    x_limits, y_limits = axes.get_xlim(), np.sort(axes.get_ylim())
    pitch = _LABEL_PITCH * DPI * (y_limits[1] - y_limits[0]) / axes.get_window_extent().height
    by_x = np.argsort(points[:, 0], kind="stable")
    half = len(by_x) // 2
    for chosen, x, align, elbow in ((by_x[:half], x_limits[0], "right", -4), (by_x[half:], x_limits[1], "left", 4)):
        chosen = chosen[np.argsort(points[chosen, 1], kind="stable")]
        for k, y in zip(chosen, _spread(points[chosen, 1], pitch, *y_limits), strict=True):
            axes.plot([points[k, 0], x], [points[k, 1], y], color=SIDE_COLORS[sides[k]], linewidth=0.5, alpha=0.7,
                      clip_on=False, zorder=2.5)
            axes.annotate(labels[k], (x, y), xytext=(elbow, 0), textcoords="offset points", ha=align, va="center",
                          fontsize=7.5, annotation_clip=False)


def _spread(sorted_values, pitch, low, high):
    """Moves values apart to `pitch` at least, a little up and a little down, within low and high where there is room."""
    ranks = pitch * np.arange(len(sorted_values))
    values = sorted_values - ranks
    values = (np.maximum.accumulate(values) + np.minimum.accumulate(values[::-1])[::-1]) / 2
    return np.clip(values, low + pitch / 2, high - pitch / 2 - ranks[-1:].max(initial=0)) + ranks
