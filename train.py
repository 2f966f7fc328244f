"""Trains one 3D pose model on all data sets of a set, in all their skeleton formats.

    python train.py                                   the embedded demo
    python train.py --dataset-set=full --data-root=DIR
    python train.py --dataset-set=my_set.toml --dry-run

Running the same command again continues where it was stopped. What each phase does: README.md.
"""

import dataclasses
import json
import logging as python_logging
import os
import pathlib
import sys

from absl import app, flags, logging

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import ace
from datasets import dataset_set as sets
from datasets import flags as common_flags
from datasets.prepare import PrepareError, prepare
from datasets.registry import load_adapter
from posepile.data.batches import BatchPlan
from posepile.data.part_workers import WorkerError
from posepile.data.pictures import Pictures, load_pictures
from posepile.data.queue_statistics import QueueStatistics
from posepile.data.records import PreparedDataset, write_json
from posepile.evaluation import benchmark
from posepile.evaluation.run_report import write_run_report
from posepile.evaluation.scoring import headline
from posepile.evaluation.table import format_comparison
from posepile.geometry.skeleton import averaging_matrix, merge_skeletons
from posepile.models.pose_model import PoseModel
from posepile.models.pose_trainer import LossSettings, PoseTrainer
from posepile.prediction.predictor import Predictor, default_jit_compile, load_model
from posepile.training import backend, pseudo_labels, schedules
from posepile.training import config as configs
from posepile.training import phases as training_phases
from posepile.training.run_directory import RunDirectory
from posepile.training.run_log import RunLog, read_log
from posepile.training.stop_signal import stop_requested

_DATASET_SET = flags.DEFINE_string("dataset_set", "demo", "demo, small, medium, full, or a .toml file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/NAME_OF_THE_SET.")
_PHASES = flags.DEFINE_list("phases", list(configs.PHASES), "Which phases to run.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the resolved plan as JSON and exit.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete a run with other settings that is in --workdir.")
_CONSISTENCY = flags.DEFINE_string("consistency", None, f"One of {', '.join(configs.CONSISTENCY_MODES)}.")
_BACKBONE = flags.DEFINE_string("backbone", None, "The image network; an unknown name lists the known ones.")
_WEIGHTS = flags.DEFINE_string("weights", None, "Initial weights of the backbone: imagenet, none, or a file.")
_CROP_SIDE = flags.DEFINE_integer("crop_side", None, "Side of the input crops, px.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", None, "Steps of the initial phase.", lower_bound=1)
_FINETUNE_STEPS = flags.DEFINE_integer("finetune_steps", None, "Steps of fine-tuning.", lower_bound=1)
_BN_INFERENCE_STEPS = flags.DEFINE_integer("bn_inference_steps", None, "Last steps of each phase with stored BatchNorm "
                                           "statistics.", lower_bound=0)
_GHOST_BATCH_SIZE = flags.DEFINE_string("ghost_batch_size", None, "Examples per BatchNorm group, 3d/2d, or none.")
_PRECISION = flags.DEFINE_string("precision", None, f"One of {', '.join(configs.PRECISIONS)}.")
_LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Base learning rate.")
_CHECKPOINT_INTERVAL = flags.DEFINE_integer("checkpoint_interval", None, "Steps between checkpoints.", lower_bound=1)
_OCCLUDER_DIR = flags.DEFINE_string("occluder_dir", None, "Folder of RGBA pictures of objects to paste over people; default: "
                                    "drawn ones.")
_BACKGROUND_DIR = flags.DEFINE_string("background_dir", None, "Folder of photographs to put behind people whose mask is "
                                      "known; default: drawn ones.")
_SKIP_BAD = flags.DEFINE_bool("skip_bad", None, "Take another example in place of one whose record cannot be used, instead of "
                              "stopping.")
_DATA_WORKERS = flags.DEFINE_integer("data_workers", None, "Processes that make training crops; 0: threads of this process. "
                                     "Default: one per core but one, on machines with 4 or more. Batches are the same for any "
                                     "number.", lower_bound=0)
_SEED = flags.DEFINE_integer("seed", None, "Seed of everything random.", lower_bound=0, upper_bound=2**32 - 1)
flags.declare_key_flag("data_root")  # for --help


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What one call of this program is to do, with everything resolved.

    Attributes:
        dataset_set: what a batch is made of.
        config: the settings of the training.
        phases: which of them to run.
        data_root: folder of the prepared data sets.
        run: folder of the run.
    """

    dataset_set: sets.DatasetSet
    config: configs.TrainConfig
    phases: tuple[str, ...]
    data_root: pathlib.Path
    run: RunDirectory


def main(argv):
    python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments {argv[1:]}; flags are spelled --name=value")
        plan = make_plan()
        if _DRY_RUN.value:
            print(json.dumps(dry_run(plan), indent=2))
        else:
            execute(plan, _OVERWRITE.value)
    except training_phases.TrainingInterrupted as stop:
        sys.exit(f"{stop}. The same command goes on from here.")
    except KeyboardInterrupt as stop:
        sys.exit(str(stop) or "stopped. The same command goes on from the last checkpoint.")
    except (ValueError, FileNotFoundError, ConnectionError, PrepareError, WorkerError,
            training_phases.NonFiniteLossError) as error:
        logging.debug("traceback", exc_info=True)
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error}. Is the disk full, or the folder not writable? What is complete stays; the same command goes "
                 "on.")


def make_plan() -> RunPlan:
    """Reads the flags. Raises: ValueError listing the valid values of a flag."""
    data_root = pathlib.Path(common_flags.DATA_ROOT.value)
    dataset_set = sets.load_dataset_set(_DATASET_SET.value, data_root)
    if (unknown := [p for p in _PHASES.value if p not in configs.PHASES]) or not _PHASES.value:
        raise ValueError(f"unknown phases {', '.join(unknown) or '(none given)'}; valid ones: {', '.join(configs.PHASES)}")
    config = configs.make_config(dataset_set.hyperparameters, {
        "backbone": _BACKBONE.value, "backbone_weights": _WEIGHTS.value, "crop_side": _CROP_SIDE.value,
        "initial_steps": _STEPS.value, "finetune_steps": _FINETUNE_STEPS.value,
        "bn_inference_steps": _BN_INFERENCE_STEPS.value, "ghost_batch_size": _GHOST_BATCH_SIZE.value,
        "precision": _PRECISION.value, "base_learning_rate": _LEARNING_RATE.value, "seed": _SEED.value,
        "consistency": _CONSISTENCY.value, "checkpoint_interval": _CHECKPOINT_INTERVAL.value,
        "occluder_dir": _OCCLUDER_DIR.value, "background_dir": _BACKGROUND_DIR.value, "skip_bad": _SKIP_BAD.value,
        "augmentation": dataset_set.augmentation, "dataset_augmentation": dataset_set.dataset_augmentation})
    for name, folder in (("occluder-dir", config.occluder_dir), ("background-dir", config.background_dir)):
        if folder and not pathlib.Path(folder).is_dir():
            raise ValueError(f"--{name}: there is no folder {folder}")
    config.group_sizes(dataset_set.num_3d, dataset_set.num_2d)  # refuses now what does not fit the batch
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / dataset_set.name)
    return RunPlan(dataset_set, config, tuple(_PHASES.value), data_root, RunDirectory(workdir))


def make_phases(config: configs.TrainConfig) -> dict[str, training_phases.Phase]:
    """The two training phases with their schedules (METHOD: schedules)."""
    initial, finetune, rate = config.initial_steps, config.finetune_steps, config.base_learning_rate
    schedule = schedules.initial_schedule(rate, initial)
    head = schedules.finetune_head_schedule(rate, finetune)
    return {
        "initial": training_phases.Phase("initial", initial, config.bn_steps(initial), schedule, schedule, schedule.drop_step),
        "finetune": training_phases.Phase("finetune", finetune, config.bn_steps(finetune), head,
                                          schedules.finetune_backbone_schedule(rate, finetune), head.drop_step),
    }


def dry_run(plan: RunPlan) -> dict:
    """The resolved plan as JSON types; needs no prepared data."""
    dataset_set, data_root = plan.dataset_set, plan.data_root
    skeletons = [sets.dataset_skeleton(name, data_root, dataset_set.own_datasets) for name in dataset_set.datasets_3d]
    return {
        "dataset_set": dataset_set.name,
        "datasets": sets.describe_datasets(dataset_set, data_root),
        "missing": sets.missing_datasets(dataset_set, data_root),
        "batch_size": dataset_set.batch_size,
        "num_joints": merge_skeletons(skeletons).num_joints,
        "phases": [phase.describe() for name, phase in make_phases(plan.config).items() if name in plan.phases],
        "config": dataclasses.asdict(plan.config),
        "workdir": str(plan.run.path),
    }


def execute(plan: RunPlan, overwrite: bool) -> None:
    """Prepares embedded data, trains, evaluates, reports; whatever is done already is left alone."""
    run, config = plan.run, plan.config
    settings = {**dataclasses.asdict(config), "dataset_set": plan.dataset_set.name,
                "examples_per_batch": plan.dataset_set.datasets_3d | plan.dataset_set.datasets_2d,
                "evaluation": plan.dataset_set.evaluation}
    del settings["skip_bad"]  # a training that has stopped at a bad record may go on without it
    to_render = embedded_to_render(plan)
    pictures = load_pictures(config.crop_side, config.occluder_dir, config.background_dir)
    run.open(settings, overwrite)
    with run.locked():
        if to_render:
            run.run_part("prepare", lambda: render(to_render, plan.data_root), again=True)
        run_phases(plan, pictures)


def run_phases(plan: RunPlan, pictures: Pictures) -> None:
    """Everything after the data are there."""
    run, config = plan.run, plan.config
    backend.configure(config.seed, config.precision)
    datasets = open_datasets(plan)
    batch_plan = BatchPlan(
        [(datasets[n], count) for n, count in plan.dataset_set.datasets_3d.items()],
        [(datasets[n], count) for n, count in plan.dataset_set.datasets_2d.items()],
        config.crop_side, augmentation=config.augmentation, dataset_augmentation=config.dataset_augmentation,
        pictures=pictures, skip_bad=config.skip_bad)
    log = RunLog(run.path)
    if "initial" in plan.phases:
        run.run_part("initial", lambda: train_initial(plan, batch_plan, log))
    if "autoencoder" in plan.phases:
        require(run.path / "initial.keras", "initial")
        run.run_part("pseudo_labels", lambda: label_images(plan, batch_plan))
        run.run_part("autoencoder", lambda: fit_autoencoder(plan))
    if "finetune" in plan.phases:
        require(run.path / "initial.keras", "initial")
        if config.consistency != "none":
            require(run.path / "autoencoder.npz", "autoencoder")
        run.run_part("finetune", lambda: finetune(plan, batch_plan, log))
    log.close()
    evaluate_run(plan, batch_plan, datasets)


def render(names: list[str], data_root: pathlib.Path) -> None:
    """Prepares embedded data sets."""
    for name in names:
        prepare(load_adapter(name), None, data_root)


def embedded_to_render(plan: RunPlan) -> list[str]:
    """The missing embedded data sets. Raises: ValueError naming other training sets that are missing, and how to get them."""
    missing = sets.missing_datasets(plan.dataset_set, plan.data_root)
    rendered = [name for name in missing if sets.is_rendered(name)]
    others = [name for name in missing if name not in rendered]
    if any(name in plan.dataset_set.datasets_3d or name in plan.dataset_set.datasets_2d for name in others):
        raise ValueError(sets.missing_datasets_message(others, plan.data_root))
    if others:
        logging.warning("%s They are left out of the evaluation.", sets.missing_datasets_message(others, plan.data_root))
    return rendered


def open_datasets(plan: RunPlan) -> dict[str, PreparedDataset]:
    """All prepared data sets of the set, by name. Raises: FileNotFoundError naming missing files."""
    datasets = {name: PreparedDataset(plan.data_root / name) for name in plan.dataset_set.names()
                if sets.is_prepared(name, plan.data_root)}
    for dataset in datasets.values():
        dataset.check_files()
    return datasets


def require(path: pathlib.Path, phase: str) -> None:
    """Raises: FileNotFoundError if the result of an earlier phase is missing."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run the phase {phase} first, or leave --phases out")


def train_initial(plan: RunPlan, batch_plan: BatchPlan, log: RunLog) -> None:
    """Phase 1: separate output joints for every format."""
    config = plan.config
    model = PoseModel(config.backbone, config.crop_side, batch_plan.skeleton, seed=config.seed,
                      ghost_batch_size=config.group_sizes(batch_plan.num_3d, batch_plan.num_2d),
                      backbone_weights=config.backbone_weights)
    train_phase(plan, batch_plan, log, "initial", model, config.weak_steps(config.initial_steps), None)


def finetune(plan: RunPlan, batch_plan: BatchPlan, log: RunLog) -> None:
    """Phase 3: warm restart with consistency between the formats."""
    model = load_model(plan.run.path / "initial.keras")
    matrix = None
    if plan.config.consistency != "none":
        autoencoder = ace.AffineAutoencoder.load(plan.run.path / "autoencoder.npz")
        matrix = np.float32(autoencoder.decoder @ autoencoder.encoder)
    train_phase(plan, batch_plan, log, "finetune", model, 0, matrix)


def train_phase(plan, batch_plan, log, name, model, weak_perspective_steps, projection_matrix):
    """Runs one training phase and saves its model under a name of its own."""
    config, phase = plan.config, make_phases(plan.config)[name]
    settings = LossSettings(
        num_3d=batch_plan.num_3d, averaging_matrix=averaging_matrix(batch_plan.skeleton, batch_plan.joint_names_2d),
        absolute_loss_start=config.absolute_start(phase.steps), weak_perspective_steps=weak_perspective_steps,
        projection_matrix=projection_matrix)
    trainer = PoseTrainer(model, settings, seed=config.seed)
    # The two phases draw different batches: fine-tuning goes on in the epochs where the initial phase ended.
    offset = 0 if name == "initial" else config.initial_steps
    statistics = QueueStatistics(batch_plan)
    workers = backend.default_data_workers() if _DATA_WORKERS.value is None else _DATA_WORKERS.value
    stream = backend.batch_stream(batch_plan, config.seed, statistics, workers)
    with stop_requested() as should_stop:
        training_phases.run_phase(
            trainer, phase, lambda step: stream(offset + step), run_dir=plan.run.path, log=log,
            weight_decay=config.weight_decay, checkpoint_interval=config.checkpoint_interval,
            should_stop=should_stop, jit_compile=default_jit_compile(),
            blame=lambda batch: training_phases.blame_datasets(trainer, batch, batch_plan), statistics=statistics)
    save_model(model, plan.run.path / ("initial.keras" if name == "initial" else "finetuned.keras"))


def save_model(model: keras.Model, path: pathlib.Path) -> None:
    """Saves a .keras file, which appears only when it is complete."""
    temporary = path.with_name(f".{path.stem}.part.keras")
    try:
        model.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def label_images(plan: RunPlan, batch_plan: BatchPlan) -> None:
    """Phase 2a: predictions in all formats on training images."""
    datasets = [dataset for dataset, _ in batch_plan.datasets_3d]
    chosen = plan.config.pseudo_label_datasets or [d.name for d in datasets]
    if unknown := set(chosen) - {d.name for d in datasets}:
        raise ValueError(f"pseudo_label_datasets names {sorted(unknown)}, which the set does not train on in 3D")
    pseudo_labels.make_pseudo_labels(
        Predictor(plan.run.path / "initial.keras"), [d for d in datasets if d.name in chosen], datasets,
        plan.config.pseudo_labels_per_dataset, plan.run.path / "pseudo_labels.npz", plan.config.skip_bad)


def fit_autoencoder(plan: RunPlan) -> None:
    """Phase 2b: the affine-combining autoencoder of the formats."""
    config = plan.config
    with np.load(plan.run.path / "pseudo_labels.npz", allow_pickle=False) as file:
        poses = file["joints3d"]
    skeleton = load_model(plan.run.path / "initial.keras").skeleton
    autoencoder = ace.fit_autoencoder(poses, skeleton, config.num_latents, l1=config.autoencoder_l1,
                                      steps=config.autoencoder_steps, seed=config.seed)
    autoencoder.save(plan.run.path / "autoencoder.npz")


def evaluate_run(plan: RunPlan, batch_plan: BatchPlan, datasets: dict[str, PreparedDataset]) -> None:
    """Scores what there is of initial and finetuned, side by side; writes evaluation/*.json, summary.json and report.html."""
    run, evaluation_dir = plan.run, plan.run.path / "evaluation"
    evaluated = [datasets[name] for name in plan.dataset_set.evaluation if name in datasets]
    models = [name for name in ("initial", "finetuned") if (run.path / f"{name}.keras").is_file()]
    done = "All phases are done" if models[-1:] == ["finetuned"] else "Done so far"
    if not evaluated or not models:
        reason = "the set names no prepared data set under [evaluation]" if models else "there is no model yet"
        print(f"{done}: {run.path}. Nothing is evaluated, as {reason}.")
        return

    def evaluate(model_name):
        predictor = Predictor(run.path / f"{model_name}.keras")
        scores = {d.name: benchmark.evaluate_dataset(
            predictor, d, evaluation_dir / f"{model_name}_{d.name}.npz", f"evaluate {model_name}") for d in evaluated}
        benchmark.save_scores(evaluation_dir / f"{model_name}.json", scores)

    def evaluate_baseline():
        training_sets = [d for d, _ in batch_plan.datasets_3d]
        scores = {d.name: benchmark.evaluate_baseline(training_sets, d, plan.config.crop_side) for d in evaluated}
        benchmark.save_scores(evaluation_dir / "mean_pose.json", scores)

    run.run_part("evaluate_mean_pose", evaluate_baseline)
    for model_name in models:
        run.run_part(f"evaluate_{model_name}", lambda name=model_name: evaluate(name))
    scores = {name: json.loads((evaluation_dir / f"{name}.json").read_text()) for name in ["mean_pose", *models]}
    run.run_part(f"report_{'_'.join(models)}", lambda: write_run_report(
        run.path, settings=dataclasses.asdict(plan.config), scores=scores, records=read_log(run.path / "metrics.jsonl"),
        dataset=evaluated[0], crop_side=plan.config.crop_side, seconds=run.progress()["seconds"],
        autoencoder=autoencoder_weights(run.path / "autoencoder.npz"), model_skeleton=batch_plan.skeleton))
    write_summary(plan, scores)
    for dataset in evaluated:
        print(f"\n{dataset.name}, {scores[models[0]][dataset.name]['stamp']['num_poses']} images of its "
              f"{scores[models[0]][dataset.name]['stamp']['split']} split")
        print(format_comparison(scores[models[0]][dataset.name], scores.get("finetuned", {}).get(dataset.name),
                                scores["mean_pose"][dataset.name]))
    print(f"\n{done}. Report: {run.path / 'report.html'}, numbers: {run.path / 'summary.json'}")


def autoencoder_weights(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Encoder and decoder of a fitted autoencoder, if there is one."""
    if not path.is_file():
        return None
    autoencoder = ace.AffineAutoencoder.load(path)
    return autoencoder.encoder, autoencoder.decoder


def write_summary(plan: RunPlan, scores: dict) -> None:
    """The figures of a run in one small file, from its first evaluation data set."""
    run, name = plan.run, next(iter(scores["mean_pose"]))
    progress, baseline = run.progress(), scores["mean_pose"][name]
    speeds = [r["crops_per_second"] for r in read_log(run.path / "metrics.jsonl")]
    write_json(run.path / "summary.json", {
        "mean_pose_mpjpe": baseline and baseline["pooled"]["mpjpe"],
        **{model: headline(record[name]) for model, record in scores.items() if model != "mean_pose"},
        "seconds": progress["seconds"], "peak_memory_mb": progress["peak_memory_mb"],
        "crops_per_second": round(float(np.median(speeds)), 1) if speeds else None})


if __name__ == "__main__":
    app.run(main, argv=common_flags.with_underscores(sys.argv))
