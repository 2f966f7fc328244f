"""From a trained model to one that goes on with another way of enforcing consistency between formats (METHOD section 6)."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from posepile.models.pose_model import HYBRID, JOINTS, LATENT, PoseModel

CONSISTENCY_MODES = ("regularize", LATENT, HYBRID, "none")
_VARIANTS = {"regularize": JOINTS, LATENT: LATENT, HYBRID: HYBRID}


class Autoencoder(Protocol):
    """What is needed of an affine-combining autoencoder.

    Attributes:
        encoder: [num_latents, num_joints], decoder: [num_joints, num_latents] float32: rows sum to 1.
        joint_names: of the joints.
    """

    encoder: np.ndarray
    decoder: np.ndarray
    joint_names: Sequence[str]


def make_finetune_model(model: PoseModel, consistency: str, autoencoder: Autoencoder | None = None, *,
                        ghost_batch_size: int | tuple[int, ...] | None, seed: int) -> PoseModel:
    """A new model that starts from the weights of another one, which stays as it is.

    The backbone's weights and statistics are carried over, and so is the head where it predicts the same points. That of new
    latent points is folded from the joints', see `fold_head`.

    Args:
        model: what to start from; it predicts joints, or anything for the way "none", which keeps what it predicts.
        consistency: one of CONSISTENCY_MODES.
        autoencoder: for every way but "none".
        ghost_batch_size: of the new model, whatever that of the old one is.
        seed: of the new model's stochastic depth.

    Raises: ValueError if model and autoencoder have different joints, or the model predicts other points already.
    """
    if consistency not in CONSISTENCY_MODES:
        raise ValueError(f"unknown consistency {consistency!r}; valid ones: {', '.join(CONSISTENCY_MODES)}")
    variant, num_latents = model.variant, model.num_latents
    if consistency != "none":
        if model.variant != JOINTS:
            raise ValueError(f"the consistency {consistency!r} starts from a model that predicts every joint, such as "
                             f"initial.keras; this one is of the variant {model.variant!r}")
        if autoencoder is None:
            raise ValueError(f"the consistency {consistency!r} needs an autoencoder")
        check_same_joints(model.skeleton.joint_names, autoencoder.joint_names, "the autoencoder")
        variant = _VARIANTS[consistency]
        num_latents = 0 if variant == JOINTS else len(autoencoder.encoder)
    new = PoseModel.from_config({**model.get_config(), "ghost_batch_size": ghost_batch_size, "seed": seed, "variant": variant,
                                 "num_latents": num_latents})
    new.backbone.set_weights(model.backbone.get_weights())
    head_weights = model.head.get_weights()
    if variant != model.variant:
        folded = fold_head(head_weights, autoencoder.encoder)
        head_weights = folded if variant == LATENT else join_heads(head_weights, folded, num_latents)
    new.head.set_weights(head_weights)
    if num_latents:
        source = model if variant == model.variant else autoencoder
        new.encoder.assign(np.asarray(source.encoder))
        new.decoder.assign(np.asarray(source.decoder))
    return new


def fold_head(weights: Sequence[np.ndarray], encoder: np.ndarray) -> list[np.ndarray]:
    """The weights of a `HeatmapHead` whose maps are affine combinations of the maps of another one.

    Combined are the logits. The position read out from them is the same combination of positions if the heatmaps are
    Gaussians of equal width: these are then multiplied, with the weights as exponents. Otherwise it is a start for training.

    Args:
        weights: kernel [1, 1, channels, (1 + depth) num_joints] and bias [(1 + depth) num_joints].
        encoder: [num_latents, num_joints].
    """
    return [(by_point(w, encoder.shape[1]) @ encoder.T).reshape(*w.shape[:-1], -1).astype(w.dtype) for w in weights]


def join_heads(first: Sequence[np.ndarray], second: Sequence[np.ndarray], num_second: int) -> list[np.ndarray]:
    """The weights of a `HeatmapHead` for the points of the first one and then the num_second points of the second one."""
    num_first = first[-1].size * num_second // second[-1].size
    return [np.concatenate([by_point(a, num_first), by_point(b, num_second)], axis=-1).reshape(*a.shape[:-1], -1)
            for a, b in zip(first, second, strict=True)]


def by_point(weights: np.ndarray, num_points: int) -> np.ndarray:
    """[..., maps] of a `HeatmapHead` -> [..., 1 + depth, num_points]: the 2D map of each point, then its planes."""
    return weights.reshape(*weights.shape[:-1], -1, num_points)


def check_same_joints(joint_names: Sequence[str], expected: Sequence[str], whose: str) -> None:
    """Raises: ValueError saying what is different unless a model's joints are those `expected`, in the same order.

    Args: whose: in words, what has the expected joints.
    """
    if (ours := list(joint_names)) == (theirs := list(expected)):
        return
    differences = [f"{what}: {_listed(names)}" for what, names in (
        ("only the model has", [name for name in ours if name not in set(theirs)]),
        (f"only {whose} has", [name for name in theirs if name not in set(ours)])) if names]
    if not differences:
        index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        differences = [f"the same joints in another order: joint {index} is {ours[index]} and {theirs[index]}"]
    raise ValueError(f"the model has {len(ours)} joints, not the {len(theirs)} of {whose}; {'; '.join(differences)}. "
                     "A model can only be trained further on the joint list that it was made for.")


def _listed(names: list[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
