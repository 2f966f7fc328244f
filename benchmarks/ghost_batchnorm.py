"""Training speed of Ghost BatchNorm against plain BatchNorm on this machine; prints one JSON line.

    python -m benchmarks.ghost_batchnorm [--backbone=tiny] [--crop-side=64] [--batch-size=128] [--rounds=10]

The variants of the network take turns, a step each, so that other load on the machine hits them alike. A step is the
forward and backward pass of one batch. Figures are of the median step; ratios are to plain BatchNorm of the same run.
"""

import json
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from posepile.models import backbones

_BACKBONE = flags.DEFINE_string("backbone", "tiny", "Name of the network.")
_CROP_SIDE = flags.DEFINE_integer("crop_side", 64, "Side of the crops, px.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Crops per step, a multiple of 64.", lower_bound=64)
_ROUNDS = flags.DEFINE_integer("rounds", 10, "Steps per variant that are timed.", lower_bound=1)
_PRECISION = flags.DEFINE_string("precision", "float32", "Keras dtype policy.")


def main(_):
    keras.config.set_dtype_policy(_PRECISION.value)
    print(json.dumps(measure(_BACKBONE.value, _CROP_SIDE.value, _BATCH_SIZE.value, _ROUNDS.value)))


def measure(backbone: str, crop_side: int, batch_size: int, num_rounds: int) -> dict:
    """Times training steps of a backbone with plain BatchNorm, with groups of 16 and with parts 3/4 and 1/4.

    Returns: by variant: milliseconds per step (median, fastest), seconds until the first step was done (tracing), the
        median over rounds of the step's time divided by plain BatchNorm's in the same round, and the same for the CPU
        time of all threads, which other load on the machine disturbs less.
    """
    variants = {"plain": None, "groups_of_16": 16, "parts": (batch_size * 3 // 4, batch_size // 4)}
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (batch_size, crop_side, crop_side, 3)), tf.float32)
    steps, first_step_s = {}, {}
    for variant, group_sizes in variants.items():
        steps[variant] = _training_step(backbones.build_backbone(backbone, crop_side, group_sizes))
        first_step_s[variant] = _seconds(steps[variant], images)[0]
    timings = np.array([[_seconds(step, images) for step in steps.values()] for _ in range(num_rounds + 1)])[1:]
    seconds = timings[..., 0]
    ratios, cpu_ratios = np.median(timings / timings[:, :1], axis=0).T
    return {"benchmark": "ghost_batchnorm", "backbone": backbone, "crop_side": crop_side, "batch_size": batch_size,
            "precision": keras.config.dtype_policy().name} | {
        variant: {"median_ms": round(1000 * float(np.median(seconds[:, index])), 1),
                  "fastest_ms": round(1000 * float(seconds[:, index].min()), 1),
                  "first_step_s": round(first_step_s[variant], 2), "ratio_to_plain": round(float(ratios[index]), 3),
                  "cpu_ratio_to_plain": round(float(cpu_ratios[index]), 3)}
        for index, variant in enumerate(variants)}


def _training_step(model: keras.Model):
    """A function of a batch of images that runs forward and backward and returns a number made of all gradients."""
    @tf.function(jit_compile=False)
    def step(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.cast(model(images, training=True), tf.float32) - 1))
        gradients = tape.gradient(loss, model.trainable_variables)
        return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])
    return step


def _seconds(step, images) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one step."""
    start, cpu_start = time.perf_counter(), time.process_time()
    step(images).numpy()
    return time.perf_counter() - start, time.process_time() - cpu_start


if __name__ == "__main__":
    app.run(main)
