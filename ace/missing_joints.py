"""Missing joints, estimated from the visible ones by way of the latent points."""

import numpy as np

from ace.poses import center_poses

MIN_VISIBLE_WEIGHT = 0.25  # sum of a latent point's weights of visible joints, below which they tell little of it
PRIOR_WEIGHT = 0.01  # of such a first estimate of a latent point, against 1 for a visible joint
_CHUNK = 1000  # poses


def fill_missing(points: np.ndarray, mask: np.ndarray, encoder: np.ndarray, decoder: np.ndarray) -> np.ndarray:
    """Poses with their missing joints where the decoder puts them.

    Few joints make a latent point, so that it is lost with them; but many joints are made of it. The latent points are
    those that bring the decoder closest to the visible joints (least squares), drawn a little towards the encoder's
    estimate with the weights of the visible joints scaled to sum to 1. Moves with rotations, translations and scale.

    Args:
        points: [n, J, d] floats, mask: [n, J] bool, False for missing joints, whose coordinates are not read.
        encoder, decoder: [L, J], [J, L].

    Returns: [n, J, d]; a pose without any visible joint is 0.
    """
    filled = points.copy()
    incomplete = np.flatnonzero(~mask.all(axis=1))
    for start in range(0, len(incomplete), _CHUNK):
        chosen = incomplete[start:start + _CHUNK]
        filled[chosen] = _fill(points[chosen], mask[chosen], encoder.astype(points.dtype), decoder.astype(points.dtype))
    return filled


def _fill(points, mask, encoder, decoder):
    center, centered = center_poses(points, mask)
    visible, num_latents = mask.astype(points.dtype), len(encoder)
    latents = encoder @ centered / np.maximum(visible @ encoder.T, MIN_VISIBLE_WEIGHT)[..., None]
    products = (decoder[:, :, None] * decoder[:, None, :]).reshape(len(decoder), -1)
    systems = (visible @ products).reshape(-1, num_latents, num_latents)
    systems += PRIOR_WEIGHT * np.eye(num_latents, dtype=points.dtype)
    latents += np.linalg.solve(systems, decoder.T @ (visible[..., None] * (centered - decoder @ latents)))
    return np.where(mask[..., None], points, decoder @ latents + center)
