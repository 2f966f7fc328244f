"""Whether what the paper found holds here as well: its ablations in small on the embedded data, with several seeds.

    python -m benchmarks.reproduction [--json] [--seeds=3] [--output-dir=runs/reproduction] [--data-root=data]
                                      [--steps=1200] [--finetune-steps=300] [--crop-side=48] [--confidence=0.95]

Every training is a run of train.py on the set `demo`, in a folder of its own below --output-dir; there are eight per seed, see
VARIANTS. Killed and started again it goes on; what is finished is not done again, and more seeds than before add to those that
are there. It takes about 20 minutes per seed on two quiet cores.

Then every direction of `benchmarks.reproduction_directions` is judged by the difference of the figures it concerns: it holds or
does not hold where the interval of the difference lies on one side of 0, else it is not decided. The intervals cover both what
another seed and what other test people would change, see `reproduction_effects`.

    directions    a line per direction and figure: `models` and their coefficients, `improves`: what is claimed, `published`:
                  differences by benchmark, `estimate`, `low`, `high`, the standard errors `error_of_seeds` and
                  `error_of_people`, `by_seed`, `verdict`
    models        what the differences are taken of: per model and figure a number for every seed
    verdicts      how many lines hold, do not hold, are not decided
"""

import argparse
import collections
import dataclasses
import datetime
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

import ace
from benchmarks.machine import machine_facts
from benchmarks.reproduction_directions import DIRECTIONS
from benchmarks.reproduction_effects import judge, measure_autoencoder, measure_model
from benchmarks.reproduction_table import format_study
from posepile.data.records import PreparedDataset
from posepile.evaluation.benchmark import read_scored
from posepile.evaluation.prediction_files import read_predictions
from posepile.evaluation.run_report import REPORT_NAME
from posepile.evaluation.scoring import json_ready
from posepile.training.config import TrainConfig
from posepile.training.run_directory import RunDirectory
from posepile.training.stop_signal import Preempted, preemption_raised

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
TEST_SET = "synthetic_test"


@dataclasses.dataclass(frozen=True)
class Variant:
    """What sets a training apart; by default it is the study's default one.

    Attributes:
        length: of the initial phase, in units of the study's steps.
        ghost_batch_size: see `TrainConfig`.
        has_inference_steps: whether the phases end with steps in which BatchNorm uses its stored statistics.
        consistency: the ways in which the initial model is fine-tuned.
    """

    length: int = 1
    ghost_batch_size: str = "16"
    has_inference_steps: bool = True
    consistency: tuple[str, ...] = ("regularize",)

    def model_names(self) -> tuple[str, ...]:
        """Of the files that train.py makes of it."""
        return ("initial", "finetuned", *(f"finetuned_{mode}" for mode in self.consistency[1:]))


VARIANTS = {
    "default": Variant(consistency=("regularize", "none", "latent", "hybrid")),
    "ghost_16_without": Variant(has_inference_steps=False),
    "ghost_3d_2d": Variant(ghost_batch_size="3d/2d"),
    "ghost_3d_2d_without": Variant(ghost_batch_size="3d/2d", has_inference_steps=False),
    "plain": Variant(ghost_batch_size="none"),
    "plain_without": Variant(ghost_batch_size="none", has_inference_steps=False),
    "x2": Variant(length=2),
    "x4": Variant(length=4),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of all trainings alike. Attributes: steps: of the initial phase of length 1; finetune_steps; crop_side: px."""

    steps: int = 1200
    finetune_steps: int = 300
    crop_side: int = 48


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--seeds", type=int, default=3, help="how many, 2 or more (%(default)s)")
    parser.add_argument("--output-dir", type=pathlib.Path, default=pathlib.Path("runs/reproduction"), help="(%(default)s)")
    parser.add_argument("--data-root", type=pathlib.Path, default=pathlib.Path("data"),
                        help="prepared data sets; what is missing is rendered (%(default)s)")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (%(default)s)")
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default, help="(%(default)s)")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds is {options.seeds}; what another seed would change takes 2 or more to see")
    if not 0 < options.confidence < 1:
        parser.error(f"--confidence is {options.confidence}; it must be above 0 and below 1, such as 0.95")
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Sizes)})
    try:
        with preemption_raised():
            study = train(options.output_dir, options.data_root, options.seeds, sizes)
            result = analyse(study, options.data_root, options.seeds, sizes, options.confidence)
    except KeyboardInterrupt:
        sys.exit("stopped. The same command goes on from here.")
    except (ValueError, OSError, ChildProcessError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps(json_ready(result)) if options.json else format_study(result))
    return 0


def train(output_dir: pathlib.Path, data_root: pathlib.Path, num_seeds: int, sizes: Sizes) -> RunDirectory:
    """Does what is not done yet, seed by seed. Returns: the study's folder.

    Raises: ValueError if the folder holds a study of other sizes; ChildProcessError if a training fails.
    """
    study = RunDirectory(output_dir)
    study.open(dataclasses.asdict(sizes))
    with study.locked():
        jobs = [(f"seed{seed}_{name}", seed, variant) for seed in seeds(num_seeds) for name, variant in VARIANTS.items()]
        for i, (part, seed, variant) in enumerate(jobs):
            if not study.is_done(part):
                now = f"{datetime.datetime.now():%H:%M:%S}"
                print(f"{now} training {i + 1} of {len(jobs)}: {part}", file=sys.stderr, flush=True)
            study.run_part(part, lambda part=part, seed=seed, variant=variant: run_training(
                command(variant, seed, sizes, data_root, output_dir / part), output_dir / part, output_dir / f"{part}.log"))
        for seed in seeds(num_seeds):
            default = output_dir / f"seed{seed}_default"
            study.run_part(f"seed{seed}_without_l1", lambda run=default, seed=seed: fit_without_l1(run, seed))
    return study


def seeds(number: int) -> range:
    """1, 2, ..."""
    return range(1, number + 1)


def command(variant: Variant, seed: int, sizes: Sizes, data_root: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    """That of a training."""
    # In all phases as many, as published, and all of them after the learning rate has dropped.
    inference_steps = sizes.finetune_steps // 8 if variant.has_inference_steps else 0
    return [sys.executable, str(REPOSITORY / "train.py"), "--dataset-set=demo", f"--data-root={data_root}",
            f"--workdir={workdir}", f"--seed={seed}", f"--crop-side={sizes.crop_side}",
            f"--steps={sizes.steps * variant.length}", f"--finetune-steps={sizes.finetune_steps}",
            f"--bn-inference-steps={inference_steps}", f"--ghost-batch-size={variant.ghost_batch_size}",
            f"--consistency={','.join(variant.consistency)}"]


def run_training(arguments: Sequence[str], run: pathlib.Path, log: pathlib.Path) -> None:
    """Runs train.py to its end. Raises: ChildProcessError if it ends before, naming the log of what it wrote."""
    with open(log, "ab") as file, subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt as stop:
            if isinstance(stop, Preempted):  # while Ctrl-C goes to both
                process.terminate()
            process.wait()  # for its checkpoint
            raise
    if status or not (run / REPORT_NAME).is_file():  # told to stop, it ends with status 0
        raise ChildProcessError(f"the training in {run} ended with status {status} before its report was there. {log} says "
                                "why; the same command goes on from here.")


def fit_without_l1(run: pathlib.Path, seed: int) -> None:
    """The autoencoder of a run, but without the l1 penalty: the same poses, the same seed."""
    autoencoder = ace.AffineAutoencoder.load(run / "autoencoder.npz")
    with np.load(run / "pseudo_labels.npz", allow_pickle=False) as file:
        poses = file["joints3d"]
    ace.fit_autoencoder(poses, autoencoder.skeleton, autoencoder.num_latents, l1=0.0, sweeps=TrainConfig.autoencoder_sweeps,
                        seed=seed, progress=False).save(run / "autoencoder_without_l1.npz")


def analyse(study: RunDirectory, data_root: pathlib.Path, num_seeds: int, sizes: Sizes, confidence: float) -> dict:
    """Returns: the figures named in the module's docstring."""
    dataset = PreparedDataset(data_root / TEST_SET)
    truth = read_scored(dataset, sizes.crop_side)
    people = truth.labels["sequence"]
    measured = {}
    for name, variant in VARIANTS.items():
        runs = [study.path / f"seed{seed}_{name}" for seed in seeds(num_seeds)]
        for model in variant.model_names():
            predictions = [read_predictions(run / "evaluation" / f"{model}_{TEST_SET}.npz").joints3d for run in runs]
            measured[f"{name}/{model}"] = measure_model(predictions, truth.joints3d, truth.validity, dataset.skeleton, people)
    defaults = [study.path / f"seed{seed}_default" for seed in seeds(num_seeds)]
    for name in ("autoencoder", "autoencoder_without_l1"):
        measured[f"default/{name}"] = measure_autoencoder([ace.AffineAutoencoder.load(run / f"{name}.npz") for run in defaults])
    lines = judge(DIRECTIONS, measured, confidence)
    return {"benchmark": "reproduction", "directions": lines,
            "models": {name: model.by_figure() for name, model in measured.items()},
            "verdicts": dict(collections.Counter(line["verdict"] for line in lines)),
            "num_seeds": num_seeds, **dataclasses.asdict(sizes), "confidence": confidence,
            "num_poses": len(truth.joints3d), "num_people": len(set(people)),
            "training_minutes": round(sum(study.progress()["seconds"].values()) / 60, 1),
            "date": f"{datetime.date.today()}", "machine": machine_facts("tensorflow", "keras", "numpy")}


if __name__ == "__main__":
    sys.exit(main())
