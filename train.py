"""Trains one 3D pose model on all data sets of a set, in all their skeleton formats.

    python train.py                                   the embedded demo
    python train.py --dataset-set=full --data-root=DIR
    python train.py --dataset-set=my_set.toml --dry-run

Running the same command again continues where it was stopped. What each phase does: README.md.
"""

import contextlib
import dataclasses
import json
import logging as python_logging
import os
import pathlib
import shutil
import sys

from absl import app, flags, logging

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import ace
from datasets import dataset_set as sets
from datasets import flags as common_flags
from datasets.catalogue import normalize_name
from datasets.prepare import PrepareError, prepare
from datasets.registry import load_adapter
from posepile.data.atomic_files import atomic_file
from posepile.data.batches import BatchPlan
from posepile.data.part_workers import WorkerError
from posepile.data.pictures import Pictures, load_pictures
from posepile.data.records import PreparedDataset
from posepile.evaluation.run_evaluation import evaluate_run
from posepile.geometry.skeleton import Skeleton, merge_skeletons, skeleton_from_dict
from posepile.models.consistency import check_same_joints, make_finetune_model
from posepile.models.pose_model import PoseModel
from posepile.prediction.predictor import Predictor, find_model_file, load_model, saved_settings
from posepile.training import backend, pseudo_labels, schedules
from posepile.training import config as configs
from posepile.training import phases as training_phases
from posepile.training.distribution import Distribution, make_distribution
from posepile.training.run_directory import RunDirectory
from posepile.training.run_log import LOG_NAME, RunLog
from posepile.training.speed_estimate import estimate_duration
from posepile.training.stop_signal import Preempted, preemption_raised
from posepile.training.training import AVERAGE_SUFFIX, Training
from posepile.training.validation import make_validation

_DATASET_SET = flags.DEFINE_string("dataset_set", "demo", "demo, small, medium, full, or a .toml file.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/NAME_OF_THE_SET.")
_PHASES = flags.DEFINE_list("phases", list(configs.DEFAULT_PHASES), f"Which phases to run, of {', '.join(configs.PHASES)}.")
_INIT_FROM = flags.DEFINE_string("init_from", None, "A model to start from, a .keras file or a run's folder: needed by "
                                 "--phases=bn_inference, possible for the initial phase, and instead of it for the "
                                 "autoencoder.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the resolved plan as JSON and exit.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete a run with other settings that is in --workdir.")
_CONSISTENCY = flags.DEFINE_string("consistency", None, f"One of {', '.join(configs.CONSISTENCY_MODES)}; or several, separated "
                                   "by commas, to compare.")
_BACKBONE = flags.DEFINE_string("backbone", None, "The image network; an unknown name lists the known ones.")
_WEIGHTS = flags.DEFINE_string("weights", None, "Initial weights of the backbone: imagenet, none, or a file.")
_CROP_SIDE = flags.DEFINE_integer("crop_side", None, "Side of the input crops, px.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", None, "Steps of the initial phase.", lower_bound=1)
_FINETUNE_STEPS = flags.DEFINE_integer("finetune_steps", None, "Steps of fine-tuning.", lower_bound=1)
_BN_INFERENCE_STEPS = flags.DEFINE_integer("bn_inference_steps", None, "Last steps of each phase with stored BatchNorm "
                                           "statistics.", lower_bound=0)
_GHOST_BATCH_SIZE = flags.DEFINE_string("ghost_batch_size", None, "Examples per BatchNorm group, 3d/2d, or none.")
_PRECISION = flags.DEFINE_string("precision", None, f"One of {', '.join(configs.PRECISIONS)}.")
_LOSS_SCALE = flags.DEFINE_string("loss_scale", None, "For float16: dynamic, a number such as 128, or none; by default dynamic "
                                  "with mixed_float16, else none.")
_MICRO_BATCHES = flags.DEFINE_integer("micro_batches", None, "Equal parts that a step takes its batch in, to save memory.",
                                      lower_bound=1)
_CLIP_NORM = flags.DEFINE_float("clip_norm", None, "Largest global norm of the gradient; 0: unbounded.")
_AVERAGE_MOMENTUM = flags.DEFINE_float("average_momentum", None, "Of a moving average of the weights, e.g. 0.999, which is "
                                       "evaluated beside them; 0: none.")
_ON_NAN = flags.DEFINE_enum("on_nan", "stop", training_phases.ON_NAN, "What to do at a loss that is not finite: stop, or skip "
                            "the step.")
_DEVICES = flags.DEFINE_integer("devices", None, "Devices of this machine to train on; default: all GPUs, or one CPU.",
                                lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", None, "Base learning rate.")
_PSEUDO_LABEL_DATASETS = flags.DEFINE_list("pseudo_label_datasets", None, "Data sets with 3D labels on whose training images "
                                           "all joints are predicted for the autoencoder; default: h36m and bml_movi, or all.")
_PSEUDO_LABELS_PER_DATASET = flags.DEFINE_integer("pseudo_labels_per_dataset", None, "At most so many images of each of them.",
                                                  lower_bound=1)
_CHECKPOINT_INTERVAL = flags.DEFINE_integer("checkpoint_interval", None, "Steps between checkpoints.", lower_bound=1)
_VALIDATION_INTERVAL = flags.DEFINE_integer("validation_interval", None, "Steps between scores on validation crops.",
                                            lower_bound=1)
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
        workdir: folder of the run.
        init_from: model file to start from, if any.
    """

    dataset_set: sets.DatasetSet
    config: configs.TrainConfig
    phases: tuple[str, ...]
    data_root: pathlib.Path
    workdir: pathlib.Path
    init_from: pathlib.Path | None = None


def main(argv):
    python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments {argv[1:]}; flags are spelled --name=value")
        plan = make_plan()
        if _DRY_RUN.value:
            print(json.dumps(dry_run(plan), indent=2))
        else:
            with preemption_raised():
                execute(plan, _OVERWRITE.value)
    except training_phases.TrainingInterrupted as stop:
        sys.exit(f"{stop}. The same command goes on from here.")
    except Preempted as stop:  # not an error: the scheduler of a cluster starts the same command again
        print(f"{str(stop) or 'stopped'}. The same command goes on from here.", file=sys.stderr)
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
    if not dataset_set.datasets_3d:
        raise ValueError(f"the dataset set {dataset_set.name} is for evaluation only; name it in evaluate.py --benchmarks")
    init_from = find_model_file(_INIT_FROM.value) if _INIT_FROM.value else None
    check_phases(_PHASES.value, init_from)
    config = configs.make_config(dataset_set.hyperparameters, {
        "backbone": _BACKBONE.value, "backbone_weights": _WEIGHTS.value, "crop_side": _CROP_SIDE.value,
        **(model_settings(init_from, dataset_set, data_root) if init_from else {}),
        "initial_steps": _STEPS.value, "finetune_steps": _FINETUNE_STEPS.value,
        "bn_inference_steps": _BN_INFERENCE_STEPS.value, "ghost_batch_size": _GHOST_BATCH_SIZE.value,
        "precision": _PRECISION.value, "loss_scale": _LOSS_SCALE.value, "micro_batches": _MICRO_BATCHES.value,
        "clip_norm": _CLIP_NORM.value, "average_momentum": _AVERAGE_MOMENTUM.value,
        "validation_interval": _VALIDATION_INTERVAL.value, "base_learning_rate": _LEARNING_RATE.value, "seed": _SEED.value,
        "consistency": _CONSISTENCY.value, "checkpoint_interval": _CHECKPOINT_INTERVAL.value,
        "occluder_dir": _OCCLUDER_DIR.value, "background_dir": _BACKGROUND_DIR.value, "skip_bad": _SKIP_BAD.value,
        "pseudo_label_datasets": _PSEUDO_LABEL_DATASETS.value, "pseudo_labels_per_dataset": _PSEUDO_LABELS_PER_DATASET.value,
        "augmentation": dataset_set.augmentation, "dataset_augmentation": dataset_set.dataset_augmentation})
    config = dataclasses.replace(config, pseudo_label_datasets=configs.pseudo_labelled_datasets(
        [normalize_name(name) for name in config.pseudo_label_datasets], list(dataset_set.datasets_3d)))
    for name, folder in (("occluder-dir", config.occluder_dir), ("background-dir", config.background_dir)):
        if folder and not pathlib.Path(folder).is_dir():
            raise ValueError(f"--{name}: there is no folder {folder}")
    config.group_sizes(dataset_set.num_3d, dataset_set.num_2d)  # refuses now what does not fit the batch
    default_name = dataset_set.name + ("_bn_inference" if _PHASES.value == ["bn_inference"] else "")
    workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / default_name)
    return RunPlan(dataset_set, config, tuple(_PHASES.value), data_root, workdir, init_from)


def check_phases(phases: list[str], init_from: pathlib.Path | None) -> None:
    """Raises: ValueError for phases that do not exist or do not go with the model to start from."""
    if (unknown := [p for p in phases if p not in configs.PHASES]) or not phases:
        raise ValueError(f"unknown phases {', '.join(unknown) or '(none given)'}; valid ones: {', '.join(configs.PHASES)}")
    if "bn_inference" in phases and (len(phases) > 1 or not init_from):
        raise ValueError("--phases=bn_inference stands alone and needs --init-from=MODEL")
    if init_from and not {"bn_inference", "initial", "autoencoder"} & set(phases):
        raise ValueError("--init-from is where the phases bn_inference, initial and autoencoder start, not "
                         f"{', '.join(phases)}")


def model_settings(path: pathlib.Path, dataset_set: sets.DatasetSet, data_root: pathlib.Path) -> dict:
    """The settings that a model file fixes. Raises: ValueError if it predicts other joints than the set labels."""
    saved = saved_settings(path)
    check_same_joints(skeleton_from_dict(saved["skeleton"]).joint_names, merged_skeleton(dataset_set, data_root).joint_names,
                      f"the data sets of {dataset_set.name}")
    return {"backbone": saved["backbone"], "crop_side": saved["crop_side"], "backbone_weights": "none"}


def merged_skeleton(dataset_set: sets.DatasetSet, data_root: pathlib.Path) -> Skeleton:
    """All joints that the set labels in 3D; needs no prepared data."""
    return merge_skeletons([sets.dataset_skeleton(name, data_root, dataset_set.own_datasets)
                            for name in dataset_set.datasets_3d])


def make_phases(config: configs.TrainConfig) -> dict[str, training_phases.Phase]:
    """The training phases with their schedules (METHOD: schedules)."""
    initial, finetune, rate = config.initial_steps, config.finetune_steps, config.base_learning_rate
    schedule = schedules.initial_schedule(rate, initial)
    tail = schedules.bn_inference_schedule(rate, max(config.bn_inference_steps, 1))
    return {
        "initial": training_phases.Phase("initial", initial, config.bn_steps(initial), schedule, schedule),
        "finetune": training_phases.Phase("finetune", finetune, config.bn_steps(finetune),
                                          schedules.finetune_head_schedule(rate, finetune),
                                          schedules.finetune_backbone_schedule(rate, finetune)),
        "bn_inference": training_phases.Phase("bn_inference", tail.steps, tail.steps, tail, tail),
    }


def dry_run(plan: RunPlan) -> dict:
    """The resolved plan as JSON types; needs no prepared data."""
    dataset_set, data_root = plan.dataset_set, plan.data_root
    phases = [phase for name, phase in make_phases(plan.config).items() if name in plan.phases]
    return {
        "dataset_set": dataset_set.name,
        "datasets": sets.describe_datasets(dataset_set, data_root),
        "missing": sets.missing_datasets(dataset_set, data_root),
        "batch_size": dataset_set.batch_size,
        "num_joints": merged_skeleton(dataset_set, data_root).num_joints,
        "phases": [phase.describe() for phase in phases],
        "estimate": estimate_duration(plan.workdir.parent, plan.config, dataset_set.batch_size, phases),
        "config": dataclasses.asdict(plan.config),
        "workdir": str(plan.workdir),
    }


def execute(plan: RunPlan, overwrite: bool) -> None:
    """Prepares embedded data, trains, evaluates, reports; whatever is done already is left alone."""
    config = plan.config
    settings = {**dataclasses.asdict(config), "dataset_set": plan.dataset_set.name,
                "examples_per_batch": plan.dataset_set.datasets_3d | plan.dataset_set.datasets_2d,
                "evaluation": plan.dataset_set.evaluation, "init_from": plan.init_from and str(plan.init_from)}
    del settings["skip_bad"]  # a training that has stopped at a bad record may go on without it
    to_render = embedded_to_render(plan)
    pictures = load_pictures(config.crop_side, config.occluder_dir, config.background_dir)
    distribution = make_distribution(_DEVICES.value)
    distribution.check_same({**settings, "phases": plan.phases, "on_nan": _ON_NAN.value, "devices": distribution.num_local,
                             f"data sets to be rendered in {plan.data_root}": to_render})
    run = RunDirectory(plan.workdir, distribution.is_chief)
    with contextlib.ExitStack() as stack:
        distribution.chief_first(lambda: run.open(settings, overwrite))
        distribution.chief_first(lambda: stack.enter_context(run.locked()))
        if to_render and distribution.is_chief:
            run.run_part("prepare", lambda: render(to_render, plan.data_root), again=True)
        elif to_render:
            run.wait_until(lambda: not set(to_render) & set(sets.missing_datasets(plan.dataset_set, plan.data_root)),
                           f"render {', '.join(to_render)}")
        run_phases(plan, run, distribution, pictures)


def run_phases(plan: RunPlan, run: RunDirectory, distribution: Distribution, pictures: Pictures) -> None:
    """Everything after the data are there."""
    config = plan.config
    backend.configure(config.seed, config.precision)
    datasets = open_datasets(plan)
    batch_plan = BatchPlan(
        [(datasets[n], count) for n, count in plan.dataset_set.datasets_3d.items()],
        [(datasets[n], count) for n, count in plan.dataset_set.datasets_2d.items()],
        config.crop_side, augmentation=config.augmentation, dataset_augmentation=config.dataset_augmentation,
        pictures=pictures, skip_bad=config.skip_bad)
    training_sets = [dataset for dataset, _ in batch_plan.datasets_3d]
    log = RunLog(run.path)
    training = Training(
        config, batch_plan.share(distribution.worker, distribution.num_workers), distribution, run.path, log,
        make_validation(training_sets, batch_plan.skeleton, config.crop_side, skip_bad=config.skip_bad),
        backend.default_data_workers() if _DATA_WORKERS.value is None else _DATA_WORKERS.value, _ON_NAN.value)
    phases = make_phases(config)
    if "initial" in plan.phases:
        run.run_part("initial", lambda: train_initial(training, phases["initial"], plan.init_from), together=True)
    elif plan.init_from and "autoencoder" in plan.phases:
        run.run_part("initial", lambda: adopt_model(plan.init_from, run.path))
    if "autoencoder" in plan.phases:
        require(run.path / "initial.keras", "initial")
        run.run_part("pseudo_labels", lambda: label_images(config, training_sets, run.path))
        run.run_part("autoencoder", lambda: fit_autoencoder(config, run.path))
    if "finetune" in plan.phases:
        require(run.path / "initial.keras", "initial")
        if config.consistency != "none":
            require(run.path / "autoencoder.npz", "autoencoder")
        for mode, suffix in finetune_suffixes(config).items():
            phase = dataclasses.replace(phases["finetune"], name=f"finetune{suffix}")
            run.run_part(phase.name, lambda mode=mode, suffix=suffix, phase=phase: finetune(
                training, phase, mode, f"finetuned{suffix}"), together=True)
    if "bn_inference" in plan.phases:
        run.run_part("bn_inference", lambda: train_bn_inference(training, phases["bn_inference"], plan.init_from),
                     together=True)
    log.close()
    if distribution.is_chief:
        evaluate_run(run, model_names(plan), [datasets[n] for n in plan.dataset_set.evaluation if n in datasets], training_sets,
                     settings=dataclasses.asdict(config), crop_side=config.crop_side,
                     autoencoder=autoencoder_weights(run.path / "autoencoder.npz"), model_skeleton=batch_plan.skeleton)


def finetune_suffixes(config: configs.TrainConfig) -> dict[str, str]:
    """By way of enforcing consistency, what its phase and its model have after their names; the first one has nothing."""
    return {mode: f"_{mode}" if index else "" for index, mode in enumerate(config.consistency_modes)}


def model_names(plan: RunPlan) -> list[str]:
    """Of all models that the run makes, in the order in which they are compared."""
    if plan.phases == ("bn_inference",):
        names = ["bn_inference"]
    else:
        names = ["initial", *(f"finetuned{suffix}" for suffix in finetune_suffixes(plan.config).values())]
    return [full_name for name in names
            for full_name in ([name, f"{name}{AVERAGE_SUFFIX}"] if plan.config.average_momentum else [name])]


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


def train_initial(training: Training, phase: training_phases.Phase, init_from: pathlib.Path | None) -> None:
    """Phase 1: separate output joints for every format."""
    config, skeleton = training.config, training.batch_plan.skeleton

    def make_model():
        if init_from:
            return make_finetune_model(load_model(init_from), "none", ghost_batch_size=training.group_sizes, seed=config.seed)
        return PoseModel(config.backbone, config.crop_side, skeleton, seed=config.seed, ghost_batch_size=training.group_sizes,
                         backbone_weights=config.backbone_weights)

    training.run(phase, make_model, "initial", absolute_loss_start=config.absolute_start(phase.steps),
                 weak_perspective_steps=config.weak_steps(phase.steps))


def adopt_model(source: pathlib.Path, run_dir: pathlib.Path) -> None:
    """Instead of phase 1: a trained model becomes the run's initial one."""
    (run_dir / LOG_NAME).touch()  # the report reads it
    with open(source, "rb") as model, atomic_file(run_dir / "initial.keras") as copy:
        shutil.copyfileobj(model, copy)


def finetune(training: Training, phase: training_phases.Phase, consistency: str, name: str) -> None:
    """Phase 3: warm restart with consistency between the formats."""
    config, autoencoder = training.config, None
    if consistency != "none":
        autoencoder = ace.AffineAutoencoder.load(training.run_dir / "autoencoder.npz")

    def make_model():
        return make_finetune_model(load_model(training.run_dir / "initial.keras"), consistency, autoencoder,
                                   ghost_batch_size=training.group_sizes, seed=config.seed)

    # The two phases draw different batches: fine-tuning goes on in the epochs where the initial phase ended.
    training.run(phase, make_model, name, first_step=config.initial_steps,
                 absolute_loss_start=config.absolute_start(phase.steps), weak_perspective_steps=0,
                 teacher_loss_start=config.teacher_start(phase.steps),
                 projection_matrix=(np.float32(autoencoder.decoder @ autoencoder.encoder) if consistency == "regularize"
                                    else None))


def train_bn_inference(training: Training, phase: training_phases.Phase, init_from: pathlib.Path) -> None:
    """The last steps of a phase on their own: BatchNorm uses its stored statistics, everything else learns."""
    training.run(phase, lambda: make_finetune_model(load_model(init_from), "none", ghost_batch_size=training.group_sizes,
                                                    seed=training.config.seed),
                 "bn_inference", absolute_loss_start=0, weak_perspective_steps=0, teacher_loss_start=0)


def label_images(config: configs.TrainConfig, training_sets: list[PreparedDataset], run_dir: pathlib.Path) -> None:
    """Phase 2a: predictions in all formats on training images."""
    chosen = [dataset for dataset in training_sets if dataset.name in config.pseudo_label_datasets]
    pseudo_labels.make_pseudo_labels(Predictor(run_dir / "initial.keras"), chosen, training_sets,
                                     config.pseudo_labels_per_dataset, run_dir / "pseudo_labels.npz", config.skip_bad)


def fit_autoencoder(config: configs.TrainConfig, run_dir: pathlib.Path) -> None:
    """Phase 2b: the affine-combining autoencoder of the formats."""
    with np.load(run_dir / "pseudo_labels.npz", allow_pickle=False) as file:
        poses = file["joints3d"]
    autoencoder = ace.fit_autoencoder(poses, load_model(run_dir / "initial.keras").skeleton, config.num_latents,
                                      l1=config.autoencoder_l1, sweeps=config.autoencoder_sweeps, seed=config.seed)
    autoencoder.save(run_dir / "autoencoder.npz")


def autoencoder_weights(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Encoder and decoder of a fitted autoencoder, if there is one."""
    if not path.is_file():
        return None
    autoencoder = ace.AffineAutoencoder.load(path)
    return autoencoder.encoder, autoencoder.decoder


if __name__ == "__main__":
    app.run(main, argv=common_flags.with_underscores(sys.argv))
