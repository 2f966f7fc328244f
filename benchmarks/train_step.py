"""Speed of training steps on this machine against stock Keras; with --json as one JSON line.

    python -m benchmarks.train_step [--json] [--backend=tensorflow|jax|torch] [--backbone=NAME] [--crop-side=N]
                                    [--batch-size=N] [--precision=POLICY] [--steps=N]

The batches are made up. The variants of a ratio take turns, a step each, in an order that changes every round, so that
other load on the machine hits all alike; the ratio is the median over the rounds of their ratios, and `spread` has its
quartiles. On a CPU:

    step_ratio          by backbone: a full step (Ghost BatchNorm in groups of 16, bounded kernels, a head of 555 joints,
                        reconstruction, all losses with consistency, AdamW) to one of the stock network of
                        keras.applications with as many output channels, mean square, AdamW of Keras, `train_on_batch`
    ghost_ratio         the backbone with Ghost BatchNorm in groups of 16 to the stock one, both with mean square and SGD;
    parts_ratio         the same in two groups, of the examples with 3D and with 2D labels
    graph_build_ratio   CPU seconds that the first step takes longer than others, the variants of ghost_ratio; null where
                        there is no graph
    joints_ratio        a full step with 555 joints to one with 17
    accumulation_ratio  a full step in 4 micro-batches to one that takes the same batch at once

By default step_ratio is measured with EfficientNetV2-B0 at 128 px, 32 crops a step, and EfficientNetV2-S at 256 px, 16
crops; joints_ratio with the latter; all others with the former and 64 crops. The options replace these, --batch-size not
the 64 crops. `steps` has each variant's milliseconds (median and fastest) and seconds until its first step was done.

On an accelerator, by default with EfficientNetV2-S at 256 px, 128 crops, mixed_bfloat16, copying of the batch included:

    crops_per_second    of full steps
    share_of_peak       operations of the convolutions, forward and twice as many backward, of what the chip's matrix units
                        can do in the precision according to its maker; null where that is not known
    device              the accelerator
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None, workload=None) -> int:
    """Measures a `step_figures.Workload`, by default the usual one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--backend", choices=("tensorflow", "jax", "torch"), help="of Keras; default: that of KERAS_BACKEND")
    parser.add_argument("--backbone", help="of keras.applications, such as efficientnetv2-s")
    parser.add_argument("--crop-side", type=int, help="px")
    parser.add_argument("--batch-size", type=int, help="crops per step, a multiple of 16")
    parser.add_argument("--precision", help="Keras dtype policy; default: float32, on an accelerator mixed_bfloat16")
    parser.add_argument("--steps", type=int, help="timed per variant")
    options = parser.parse_args(arguments)
    if options.backend:
        os.environ["KERAS_BACKEND"] = options.backend
    from benchmarks import step_figures  # imports keras, which asks for the backend once and for all

    workload = (workload or step_figures.Workload()).replace(options.backbone, options.crop_side, options.batch_size)
    if options.steps:
        workload = dataclasses.replace(workload, rounds=options.steps, block_steps=options.steps)
    try:
        result = step_figures.measure(workload, options.precision)
    except ValueError as error:  # for a network that there is none of, or a batch that does not fall into groups
        parser.error(str(error))
    width = max(map(len, result))
    print(json.dumps(result) if options.json else "\n".join(f"{key:{width}}  {value}" for key, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
