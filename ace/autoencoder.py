"""The affine-combining autoencoder as a record: few latent points that stand for the joints of many formats.

Latent points are affine combinations of the joints, and joints are affine combinations of the latent points: every row
of the weight matrices sums to 1. So one set of weights serves 2D and 3D points, in any frame and unit (WACV 2023).
"""

import dataclasses
import io
import json
import os
import pathlib

import numpy as np

from ace.affine_weights import latent_mirror, prune_weights
from ace.files import read_npz, write_whole
from ace.missing_joints import fill_missing, relative_precision
from posepile.geometry.skeleton import Skeleton, skeleton_from_dict

ZERO_WEIGHT = 1e-3  # weights below count as zero in `sparsity`
ROW_SUM_TOLERANCE = 1e-6
UNKNOWN_VARIANCE = 300.0**2  # mm^2, of a latent point of which nothing is known
_FILE_ENTRIES = ("encoder", "decoder", "num_left", "num_right", "num_centre", "history", "skeleton")


@dataclasses.dataclass(frozen=True, eq=False)
class AffineAutoencoder:
    """Encoder and decoder weights for a joint list. Raises: ValueError if the parts do not belong together.

    Attributes:
        encoder: [num_latents, num_joints] float32, rows sum to 1.
        decoder: [num_joints, num_latents] float32, rows sum to 1.
        skeleton: the joint list, usually merged from several formats.
        num_left, num_right, num_centre: the latent points come in this order; left point k mirrors right point k.
        history: [n, 2] float64: iteration of the fit, and the objective on some of its poses after it. Iterations are
            sweeps, and at the end refinements on the poses themselves.
        latent_moments: [num_latents, num_latents] float64 mm^2, second moments of the latent points in the fit's poses, which
            tell where to expect those that no visible joint tells of; None: anywhere around the others.
    """

    encoder: np.ndarray
    decoder: np.ndarray
    skeleton: Skeleton
    num_left: int
    num_right: int
    num_centre: int
    history: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2)))
    latent_moments: np.ndarray | None = None

    def __post_init__(self):
        if self.num_left != self.num_right or min(self.num_left, self.num_centre) < 0 or not self.num_latents:
            raise ValueError(f"there are {self.num_left} left, {self.num_right} right and {self.num_centre} centre "
                             "latent points; expected at least one, and as many left as right ones, which mirror them")
        for name, shape in (("encoder", (self.num_latents, self.num_joints)),
                            ("decoder", (self.num_joints, self.num_latents))):
            weights = np.ascontiguousarray(getattr(self, name), np.float32)
            if weights.shape != shape:
                raise ValueError(f"{name} has shape {list(weights.shape)}; expected {list(shape)} for "
                                 f"{self.num_latents} latent points and the {self.num_joints} joints of "
                                 f"{self.skeleton.name}")
            if not np.isfinite(weights).all():
                raise ValueError(f"{name} contains weights that are not finite")
            error = np.abs(weights.sum(axis=1, dtype=np.float64) - 1).max()
            if error > ROW_SUM_TOLERANCE:
                raise ValueError(f"{name}: the sum of a row is off by {error:.3g}; the weights of an affine "
                                 "combination sum to 1")
            object.__setattr__(self, name, weights)
        moments = np.eye(self.num_latents) * UNKNOWN_VARIANCE if self.latent_moments is None else self.latent_moments
        if np.shape(moments) != (self.num_latents,) * 2 or not np.isfinite(moments).all():
            raise ValueError(f"latent_moments has shape {list(np.shape(moments))}; expected {[self.num_latents] * 2}, all of "
                             "them finite")
        object.__setattr__(self, "latent_moments", np.asarray(moments, np.float64))
        latents, joints = self.latent_mirror, list(self.skeleton.mirror)
        if not (np.array_equal(self.encoder, self.encoder[latents][:, joints])
                and np.array_equal(self.decoder, self.decoder[joints][:, latents])):
            raise ValueError("encoder and decoder must stay the same when joints and latent points swap sides; these "
                             f"belong to another mirror table than that of {self.skeleton.name}")

    @property
    def num_latents(self) -> int:
        return self.num_left + self.num_right + self.num_centre

    @property
    def num_joints(self) -> int:
        return self.skeleton.num_joints

    @property
    def joint_names(self) -> tuple[str, ...]:
        return self.skeleton.joint_names

    @property
    def latent_mirror(self) -> np.ndarray:
        """[num_latents] int64: for every latent point the index of its mirror image."""
        return latent_mirror(self.num_left, self.num_centre)

    @property
    def sparsity(self) -> float:
        """Share of the weights of both matrices whose magnitude is below 1e-3."""
        return float(np.mean(np.abs(self._all_weights()) < ZERO_WEIGHT))

    @property
    def negative_weight_share(self) -> float:
        """|sum of the negative weights| / sum of all |weights|, both matrices: 0 for convex combinations."""
        weights = self._all_weights()
        return float(-np.minimum(weights, 0).sum() / np.abs(weights).sum())

    def encode(self, points: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Latent points of poses.

        Args:
            points: [..., num_joints, 2 or 3], any frame and unit.
            mask: [..., num_joints] bool, False for missing joints, whose coordinates are not read but estimated, see
                `fill_missing`.

        Returns: [..., num_latents, 2 or 3], float64 for float64 points, else float32.
        """
        points = self._checked_points(points, self.num_joints, "joints")
        if mask is None:
            return np.matmul(self.encoder, points, dtype=points.dtype)
        mask = np.asarray(mask)
        if mask.shape != points.shape[:-1] or mask.dtype != bool:
            raise ValueError(f"mask has shape {list(mask.shape)} and dtype {mask.dtype}; expected bool "
                             f"{list(points.shape[:-1])}, one value per joint")
        flat = points.reshape(-1, *points.shape[-2:]), mask.reshape(-1, self.num_joints)
        filled = fill_missing(*flat, np.float64(self.decoder), relative_precision(self.latent_moments))
        return self.encode(filled.reshape(points.shape))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """[..., num_latents, 2 or 3] latent points -> [..., num_joints, 2 or 3] joints."""
        latents = self._checked_points(latents, self.num_latents, "latent points")
        return np.matmul(self.decoder, latents, dtype=latents.dtype)

    def reconstruct(self, points: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Encodes and decodes: [..., num_joints, 2 or 3] -> the same shape, with every joint present."""
        return self.decode(self.encode(points, mask))

    def prune(self, threshold: float) -> "AffineAutoencoder":
        """Zeroes weights of magnitude < threshold (a row's largest stays) and scales rows to sum to 1 again."""
        return dataclasses.replace(self, encoder=prune_weights(self.encoder, threshold),
                                   decoder=prune_weights(self.decoder, threshold))

    def save(self, path: str | os.PathLike) -> None:
        """Writes an .npz file without pickles; it appears under its name only when complete."""
        file = io.BytesIO()
        np.savez(file, encoder=self.encoder, decoder=self.decoder, num_left=self.num_left, num_right=self.num_right,
                 num_centre=self.num_centre, history=self.history, latent_moments=self.latent_moments,
                 skeleton=json.dumps(self.skeleton.to_dict()))
        write_whole(pathlib.Path(path), file.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "AffineAutoencoder":
        """Reads what `save` wrote. Raises: FileNotFoundError; ValueError naming the file and what is wrong with it."""
        try:
            entries = read_npz(path)
            if missing := [name for name in _FILE_ENTRIES if name not in entries]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            counts = {name: int(entries[name]) for name in ("num_left", "num_right", "num_centre")}
            skeleton = skeleton_from_dict(json.loads(str(entries["skeleton"])))
            return cls(entries["encoder"], entries["decoder"], skeleton, **counts, history=entries["history"],
                       latent_moments=entries.get("latent_moments"))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{os.fspath(path)} is not an autoencoder file: {error}. "
                             "`python -m ace fit` writes one.") from error

    def _all_weights(self):
        return np.concatenate([self.encoder.ravel(), self.decoder.ravel()]).astype(np.float64)

    def _checked_points(self, points, num_points, what):
        points = np.asarray(points)
        if points.ndim < 2 or points.shape[-2] != num_points:
            raise ValueError(f"points have shape {list(points.shape)}; expected [..., {num_points}, 2 or 3]: the "
                             f"{num_points} {what} of the autoencoder for {self.skeleton.name}")
        return points if points.dtype == np.float64 else points.astype(np.float32)
