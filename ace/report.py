"""What an autoencoder is like, in numbers: sparsity, negative weights, its latent points, how well it reconstructs poses.

`measure` gives them as one JSON-ready dict; `ace.report_text` makes a text of it, `ace.drawing` pictures.
"""

import numpy as np

from ace.autoencoder import ZERO_WEIGHT, AffineAutoencoder
from ace.poses import center_poses, evenly_spread
from posepile.geometry.skeleton import joint_indices, plain_joint_names

DUPLICATE_MM = 5.0  # two latent points that are nearer on average say the same
MIN_EXTENT_MM = 10.0  # half the size of a pose; people in metres measure about 1
NUM_WORST_JOINTS = NUM_LARGEST_WEIGHTS = 3
MAX_SAMPLE_POSES, _CHUNK_POSES = 2000, 1000  # bound the memory: 555 joints in float64 are 13 MB per 1000 poses


def measure(autoencoder: AffineAutoencoder, poses: np.ndarray | None = None, masks: np.ndarray | None = None) -> dict:
    """All figures of the report; a weight counts as used, or nonzero, where its magnitude is > 1e-3.

    Args: poses: [n, num_joints, 3] camera space, mm; masks: [n, num_joints] bool, default: joints that are not nan.
    Returns: JSON types only. Lengths in mm; None (null) where there is nothing to measure.
    Raises: ValueError as `valid_joints` does.
    """
    skeleton, names = autoencoder.skeleton, latent_names(autoencoder)
    encoder, decoder = (weights.astype(np.float64) for weights in (autoencoder.encoder, autoencoder.decoder))
    history = np.asarray(autoencoder.history, np.float64).reshape(-1, 2)
    return {
        "skeleton": skeleton.name, "formats": [name for name, _ in format_joints(autoencoder)],
        "num_joints": autoencoder.num_joints,
        "num_latents": autoencoder.num_latents,
        "num_left": autoencoder.num_left, "num_right": autoencoder.num_right, "num_centre": autoencoder.num_centre,
        "encoder": _weight_figures(encoder.T, encoder, names),
        "decoder": _weight_figures(decoder, decoder, autoencoder.joint_names),
        "share_nonzero": float(np.mean(_used(np.stack([encoder, decoder.T])))),
        "share_exact_zero": float(np.mean(np.stack([encoder, decoder.T]) == 0)),
        "objective": None if not len(history) else {"value": float(history[-1, 1]), "iteration": int(history[-1, 0]),
                                                    "history": history.tolist()},
        "latents": [_latent_figures(autoencoder, k, name) for k, name in enumerate(names)],
        "duplicates": _duplicates(autoencoder, poses, masks),
        "errors": None if poses is None else _error_figures(autoencoder, poses, masks),
    }


def latent_names(autoencoder: AffineAutoencoder) -> list[str]:
    """L1, L2, ... for left, R1, ... for right and C1, ... for centre latent points; L1 mirrors R1."""
    counts = (("L", autoencoder.num_left), ("R", autoencoder.num_right), ("C", autoencoder.num_centre))
    return [f"{letter}{number}" for letter, count in counts for number in range(1, count + 1)]


def latent_labels(autoencoder: AffineAutoencoder) -> list[str]:
    """For pictures: the name of every latent point and the joint with the largest weight in it, `L1 left_knee`."""
    joints = plain_joint_names(autoencoder.skeleton)
    return [f"{name} {joints[j]}" for name, j in
            zip(latent_names(autoencoder), autoencoder.encoder.argmax(axis=1), strict=True)]


def latent_sides(autoencoder: AffineAutoencoder) -> list[str]:
    """"left", "right" or "centre" for every latent point."""
    return [{"L": "left", "R": "right", "C": "centre"}[name[0]] for name in latent_names(autoencoder)]


def format_joints(autoencoder: AffineAutoencoder) -> list[tuple[str, np.ndarray]]:
    """Name and joint indices of every format."""
    skeleton = autoencoder.skeleton
    return [(fmt.name, joint_indices(skeleton, fmt)) for fmt in skeleton.formats] or [
        (skeleton.name, np.arange(skeleton.num_joints))]


def valid_joints(autoencoder: AffineAutoencoder, poses: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
    """[n, num_joints] bool: the masks, or without them the joints that are not nan.

    Raises: ValueError if the poses have another shape, no joint is valid, a valid one is not finite, or the unit
        must be metres.
    """
    if poses.ndim != 3 or poses.shape[1:] != (autoencoder.num_joints, 3):
        raise ValueError(f"the poses have shape {list(poses.shape)}; expected [n, {autoencoder.num_joints}, 3] for "
                         f"{autoencoder.skeleton.name}")
    valid = ~np.isnan(poses).any(axis=-1) if masks is None else np.asarray(masks)
    if not valid.any():
        raise ValueError("the poses have no valid joint: their masks are all False, or all coordinates nan")
    if len(bad := np.argwhere(valid & ~np.isfinite(poses).all(axis=-1))):
        pose, joint = bad[0]
        raise ValueError(f"pose {pose}: the joint {autoencoder.joint_names[joint]} is not finite, though it counts as "
                         "valid; set it to nan and its mask to False")
    extent = np.abs(center_poses(poses[:_CHUNK_POSES], valid[:_CHUNK_POSES])[1]).max()
    if 0 < extent < MIN_EXTENT_MM:
        raise ValueError(f"no joint is farther than {extent:.2g} mm from the middle of its pose: the poses look like metres; "
                         "multiply them by 1000")
    return valid


def reconstruction_errors(autoencoder: AffineAutoencoder, poses: np.ndarray,
                          masks: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How far reconstructed joints are from the given ones.

    Args: poses: [n, num_joints, 3] camera space, mm; masks: [n, num_joints] bool, default: joints that are not nan.
    Returns: distances in 3D, and on the image plane scaled to the person's mean depth; both [n, num_joints] float32,
        mm, nan where a joint is not valid, and on the image plane also where the joint, its reconstruction or the
        person's mean depth is behind the camera.
    Raises: ValueError as `valid_joints` does.
    """
    valid = valid_joints(autoencoder, poses, masks)
    error_3d, error_image = np.empty((2, *valid.shape), np.float32)
    for start in range(0, len(poses), _CHUNK_POSES):
        chunk = slice(start, start + _CHUNK_POSES)
        error_3d[chunk], error_image[chunk] = _chunk_errors(autoencoder, poses[chunk], valid[chunk])
    return error_3d, error_image


def _chunk_errors(autoencoder, poses, valid):
    poses = np.where(valid[..., None], poses, np.nan).astype(np.float64)
    reconstruction = autoencoder.reconstruct(poses, None if valid.all() else valid)
    depth = np.where(valid, poses[..., 2], 0).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)

    def on_image_plane(joints):
        in_front = (joints[..., 2] > 0) & (depth[:, None] > 0)
        return joints[..., :2] * (depth[:, None] / np.where(in_front, joints[..., 2], np.nan))[..., None]

    image_error = np.linalg.norm(on_image_plane(reconstruction) - on_image_plane(poses), axis=-1)
    return np.linalg.norm(reconstruction - poses, axis=-1), image_error


def _weight_figures(by_joint, rows, row_names):
    """by_joint: [num_joints, num_latents]; rows: the same weights, every row summing to 1."""
    used, negative = _used(by_joint), np.abs(np.minimum(rows, 0)).sum(axis=1)
    return {"share_nonzero": float(used.mean()), "share_exact_zero": float(np.mean(rows == 0)),
            "latents_per_joint": {"median": float(np.median(used.sum(axis=1))), "largest": int(used.sum(axis=1).max())},
            "joints_per_latent": {"median": float(np.median(used.sum(axis=0))), "largest": int(used.sum(axis=0).max())},
            "negative_weight": {"mean": float(negative.mean()), "worst": float(negative.max()),
                                "worst_row": row_names[int(negative.argmax())]}}


def _latent_figures(autoencoder, latent, name):
    row, num_used = autoencoder.encoder[latent], int(_used(autoencoder.decoder[:, latent]).sum())
    largest = np.argsort(-np.abs(row), kind="stable")[:NUM_LARGEST_WEIGHTS]
    return {"name": name, "side": latent_sides(autoencoder)[latent],
            "largest_weights": {autoencoder.joint_names[j]: float(row[j]) for j in largest if _used(row[j])},
            "num_joints_using": num_used, "is_dead": num_used == 0}


def _duplicates(autoencoder, poses, masks):
    """Pairs of latent points with the same encoder weights or, given poses, less than DUPLICATE_MM apart on average."""
    encoder, names = autoencoder.encoder, latent_names(autoencoder)
    difference = np.array([np.abs(encoder - row).max(axis=1) for row in encoder])
    distance = np.full(difference.shape, np.inf)
    if poses is not None:
        chosen = evenly_spread(len(poses), MAX_SAMPLE_POSES)
        poses = poses[chosen]
        valid = valid_joints(autoencoder, poses, None if masks is None else masks[chosen])
        latents = autoencoder.encode(poses, valid)[valid.any(axis=1)]
        distance = np.array([np.linalg.norm(latents - latents[:, k, None], axis=-1).mean(axis=0)
                             for k in range(len(encoder))])
    pairs = np.argwhere(np.triu((difference <= ZERO_WEIGHT) | (distance < DUPLICATE_MM), 1))
    return [{"latents": [names[a], names[b]], "largest_weight_difference": float(difference[a, b]),
             "mean_distance": None if poses is None else float(distance[a, b])} for a, b in pairs]


def _error_figures(autoencoder, poses, masks):
    errors = reconstruction_errors(autoencoder, poses, masks)
    joints = [{"name": name, "num_valid": int(np.isfinite(errors[0][:, j]).sum()), **_statistics(errors, [j])}
              for j, name in enumerate(autoencoder.joint_names)]

    def figures(name, indices):
        measured = [joints[j] for j in indices if joints[j]["num_valid"]]
        worst = sorted(measured, key=lambda joint: -joint["error_3d"]["mean"])[:NUM_WORST_JOINTS]
        return {"name": name, "num_joints": len(indices), **_statistics(errors, indices),
                "worst_joints": [joint["name"] for joint in worst]}

    everything = np.arange(autoencoder.num_joints)
    return {"num_poses": len(poses), "num_behind_camera": int(np.sum(np.isfinite(errors[0]) & np.isnan(errors[1]))),
            "formats": [figures(*fmt) for fmt in format_joints(autoencoder)],
            "all": figures("all joints", everything), "joints": joints}


def _statistics(errors, joints):
    return {key: _distribution(values[:, joints]) for key, values in zip(("error_3d", "error_image"), errors, strict=True)}


def _distribution(values):
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    median, percentile_95 = np.percentile(values, (50, 95))
    return {"mean": float(values.mean(dtype=np.float64)), "median": float(median), "percentile_95": float(percentile_95)}


def _used(weights):
    return np.abs(weights) > ZERO_WEIGHT
