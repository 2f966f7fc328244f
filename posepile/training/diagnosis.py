"""What made a loss non-finite: which data sets of the batch, and which layer first."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from posepile.data.batches import BatchPlan, batch_rows
from posepile.models.pose_model import PoseModel
from posepile.training.optimizer import DYNAMIC


def explain_non_finite(model: PoseModel, batch: dict, plan: BatchPlan) -> str:
    """Says in words what is not finite with the model's present weights, which the step has left alone.

    Args:
        model: on one device.
        batch: of the step.
        plan: of the batches.
    """
    with _unchanged_state(model):
        found = _datasets_with_non_finite_values(model, batch, plan)
        layer = first_non_finite_layer(model, np.asarray(batch["image"]))
    sentences = []
    if found:
        sentences.append(f"Labels or predictions are not finite for: {', '.join(found)}.")
    if layer:
        sentences.append(f"The first layer with a value that is not finite is {layer}.")
    if not sentences:
        sentences.append(f"Data sets in the batch: {', '.join(part.dataset.name for part in plan.parts)}. With these weights "
                         "all labels and predictions are finite: a lower --learning-rate"
                         + (f" or --loss-scale={DYNAMIC}" if keras.config.dtype_policy().name == "mixed_float16" else "")
                         + " may help.")
    return " ".join(sentences)


def first_non_finite_layer(model: PoseModel, image: np.ndarray) -> str | None:
    """The name of the first layer whose output is not finite in training mode; None if all are.

    Args: image: [batch, crop_side, crop_side, 3] uint8, a batch that Ghost BatchNorm can divide.
    """
    backbone = model.backbone
    outputs = {layer.name: layer.output for layer in backbone.layers}
    values = keras.Model(backbone.input, outputs)(image, training=True)
    for layer in backbone.layers:
        if not np.isfinite(np.asarray(keras.ops.cast(values[layer.name], "float32"))).all():
            return f"{layer.name} ({type(layer).__name__})"
    head_outputs = keras.tree.flatten(model.predict_heatmap_joints(image, training=True))
    return None if all(np.isfinite(np.asarray(values)).all() for values in head_outputs) else model.head.name


def _datasets_with_non_finite_values(model: PoseModel, batch: dict, plan: BatchPlan) -> list[str]:
    points = model.predict_points({name: np.asarray(batch[name]) for name in ("image", "intrinsics")})
    prediction = np.concatenate([np.asarray(kind) for kind in points if kind is not None], axis=1)
    found = []
    for part in plan.parts:
        name = f"joints{part.kind}"
        rows = batch_rows(plan, part, name)
        labels, mask = np.asarray(batch[name])[rows], np.asarray(batch[f"{name}_mask"])[rows]
        inputs = np.asarray(batch["intrinsics"])[part.rows]
        if not all(np.isfinite(values).all() for values in (labels[mask], prediction[part.rows], inputs)):
            found.append(part.dataset.name)
    return found


@contextlib.contextmanager
def _unchanged_state(model: keras.Model) -> Iterator[None]:
    """Puts statistics and random states back that running the model in training mode changes."""
    before = [np.asarray(v).copy() for v in model.non_trainable_variables]
    try:
        yield
    finally:
        for variable, value in zip(model.non_trainable_variables, before, strict=True):
            variable.assign(value)
