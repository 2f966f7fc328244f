"""Scores a trained model on prepared data sets, or any method's prediction file against an annotation file.

    python evaluate.py --model=runs/demo --benchmarks=demo
    python evaluate.py --model=FILE.keras --benchmarks=h36m,my_rig --data-root=DIR --output-dir=evaluation
    python evaluate.py --model=runs/demo --benchmarks=h36m,3dpw,mupots --primary=mupots:pa_mpjpe --output=scores.json
    python evaluate.py --compare runs/demo/initial.keras runs/demo/finetuned.keras --benchmarks=demo
    python evaluate.py --model=runs/demo --benchmarks=demo --num-aug=5
    python evaluate.py --model=runs/demo --benchmarks=my_rig --save-predictions=poses.npz
    python evaluate.py --model=runs/demo --benchmarks=my_rig --extra-formats=my_rig_8.npz
    python evaluate.py --predictions=P.npz --annotations=A.npz --protocol=h36m
    python evaluate.py --compare P.npz Q.npz --annotations=A.npz

--output-dir gets scores.json, scores.csv, report.html, and of a model the poses as files for --predictions and --annotations;
without it and --output nothing is written. --compare scores two or more on the same poses and gives the difference of each to
the first, with its confidence interval. --save-predictions stores predictions beside labels of a format that the model lacks,
for `python -m ace add-skeleton`, which makes a file for --extra-formats. Files of predictions need neither TensorFlow nor
prepared data; of P.npz and A.npz: `posepile/evaluation/prediction_files.py`.
"""

import json
import os
import pathlib
import sys

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from datasets import flags as common_flags
from posepile.data.atomic_files import write_json
from posepile.evaluation.comparison import compare_files, distinct_names
from posepile.evaluation.evaluation_files import write_scores
from posepile.evaluation.evaluation_report import write_report
from posepile.evaluation.primary_error import parse_primaries
from posepile.evaluation.published import with_published
from posepile.evaluation.scoring import PROTOCOLS, json_ready, score_files
from posepile.evaluation.table import format_differences, format_metrics

_MODEL = flags.DEFINE_string("model", None, "A run's folder (its finetuned model, else its initial one), or a .keras file.")
_COMPARE = flags.DEFINE_list("compare", [], "Two or more runs' folders, .keras files, or with --annotations .npz files; "
                             "written A,B or A B.")
_CONFIDENCE = flags.DEFINE_float("confidence", 0.95, "Of the intervals, above 0, below 1.")
_BENCHMARKS = flags.DEFINE_list("benchmarks", ["demo"], "Prepared data sets, or sets of them such as demo.")
_PREDICTIONS = flags.DEFINE_string("predictions", None, "A method's predictions, .npz.")
_ANNOTATIONS = flags.DEFINE_string("annotations", None, "The annotations they are scored against, .npz.")
_PROTOCOL = flags.DEFINE_string("protocol", "flat", f"How files are scored: {', '.join(PROTOCOLS)}.")
_SAVE_PREDICTIONS = flags.DEFINE_string("save_predictions", None, "Instead of scoring, write what --model predicts on the "
                                        "training images of --benchmarks, and their labels, to this .npz.")
_EXTRA_FORMATS = flags.DEFINE_list("extra_formats", [], "Files of output formats added to the models, of ace add-skeleton.")
_NUM_AUG = flags.DEFINE_integer("num_aug", 1, "Test-time augmentation: predictions are means over so many views of every "
                                "person, which differ in roll, zoom, mirroring and gamma. 1: the plain crop.")
_FLIP_AUG = flags.DEFINE_bool("flip_aug", False, "Instead: means over the plain and the mirrored crop.")
_PRIMARY = flags.DEFINE_list("primary", [], "Metrics that the mean primary error averages, NAME:METRIC for data sets of "
                             "--benchmarks; mpjpe where none is given.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file that gets all numbers.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder that gets all numbers as JSON and CSV, the HTML report, and of a "
                                  "model the poses as .npz. Files of an earlier evaluation are replaced.")
flags.declare_key_flag("data_root")  # for --help


def main(argv):
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments {argv[1:]}; flags are spelled --name=value")
        scores = score()
        if _OUTPUT.value:
            write_json(pathlib.Path(_OUTPUT.value), json_ready(scores))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; no scores are written")


def score() -> dict:
    """Does what the flags ask for, and prints it. Returns: all numbers."""
    if _ANNOTATIONS.value and (_NUM_AUG.value != 1 or _FLIP_AUG.value):
        raise ValueError("--num-aug and --flip-aug are about predicting; leave them out for files of predictions")
    if _OUTPUT_DIR.value and (_COMPARE.value or _SAVE_PREDICTIONS.value):
        raise ValueError("--output-dir is for scoring; with --compare use --output")
    if _PROTOCOL.present and not _ANNOTATIONS.value:
        raise ValueError("--protocol is for files of predictions; a prepared data set of a benchmark's name is scored by its "
                         "protocol")
    if _PRIMARY.value and not _MODEL.value:
        raise ValueError("--primary is for --model: files of predictions are of one benchmark")
    if not 0 < _CONFIDENCE.value < 1:
        raise ValueError(f"--confidence must be above 0 and below 1, such as 0.95; got {_CONFIDENCE.value}")
    if _MODEL.value and not (_PREDICTIONS.value or _ANNOTATIONS.value or _COMPARE.value):
        return save_predictions() if _SAVE_PREDICTIONS.value else score_model()
    if _PREDICTIONS.value and _ANNOTATIONS.value and not (_MODEL.value or _COMPARE.value):
        return score_prediction_files()
    if _COMPARE.value and not (_MODEL.value or _PREDICTIONS.value):
        return compare()
    raise ValueError("give either --model, or --predictions and --annotations, or --compare")


def score_prediction_files() -> dict:
    """Scores --predictions against --annotations, prints tables and fills --output-dir. Returns: the record."""
    record = with_published(score_files(_PREDICTIONS.value, _ANNOTATIONS.value, _PROTOCOL.value, _CONFIDENCE.value))
    name, data_set = (pathlib.Path(path).stem for path in (_PREDICTIONS.value, _ANNOTATIONS.value))
    print(format_metrics(record, name))
    if _OUTPUT_DIR.value:
        folder = pathlib.Path(_OUTPUT_DIR.value)
        write_scores(folder, record, {data_set: record})
        write_report(folder, f"Evaluation of {name}", {data_set: record})
    return record


def score_model() -> dict:
    """Scores --model on --benchmarks, prints tables and fills --output-dir. Returns: scores per data set, and their mean."""
    from datasets.dataset_set import normalize_name
    from posepile.evaluation.model_evaluation import evaluate_model
    from posepile.prediction.predictor import Predictor, find_model_file

    path, views, datasets = find_model_file(_MODEL.value), augmented_views(), benchmark_datasets()
    chosen = [normalize_name(name) + separator + metric for name, separator, metric in
              (text.partition(":") for text in _PRIMARY.value)]
    primaries = parse_primaries(chosen, [dataset.name for dataset in datasets])
    folder = pathlib.Path(_OUTPUT_DIR.value) if _OUTPUT_DIR.value else None
    return evaluate_model(Predictor(path, extra_formats=_EXTRA_FORMATS.value), datasets, primaries, folder=folder,
                          name="/".join(path.with_suffix("").parts[-2:]), confidence=_CONFIDENCE.value, views=views)


def save_predictions() -> dict:
    """Writes --save-predictions. Returns: what is in it, in numbers."""
    from posepile.evaluation import benchmark
    from posepile.prediction.predictor import Predictor

    path, datasets, views = pathlib.Path(_SAVE_PREDICTIONS.value), benchmark_datasets(), augmented_views()
    if len(datasets) != 1:
        raise ValueError(f"--save-predictions takes one data set in --benchmarks, got {len(datasets)}")
    if _EXTRA_FORMATS.value:
        raise ValueError("--save-predictions stores the model's own joints; leave out --extra-formats")
    if path.exists():
        raise ValueError(f"{path} exists; name another --save-predictions, or delete it")
    record = benchmark.save_predictions(Predictor(_MODEL.value), datasets[0], path, views)
    print(f"{datasets[0].name}: {json.dumps(record)}\nwritten: {path}")
    return record


def compare() -> dict:
    """Compares the models or prediction files of --compare. Returns: a record; for models one per data set."""
    paths = [pathlib.Path(path) for path in _COMPARE.value]
    if len(paths) < 2:
        raise ValueError(f"--compare takes two models or prediction files, or more; got {len(paths)}")
    if _ANNOTATIONS.value:
        files = dict(zip(distinct_names(paths), paths, strict=True))
        return show_comparison(compare_files(files, _ANNOTATIONS.value, _PROTOCOL.value, _CONFIDENCE.value), files)
    if predictions := [str(path) for path in paths if path.suffix == ".npz"]:
        raise ValueError(f"--compare {', '.join(predictions)}: files of predictions need --annotations=FILE.npz")
    return compare_models(paths)


def compare_models(paths: list[pathlib.Path]) -> dict:
    """Compares models on --benchmarks. Returns: a record per data set."""
    from posepile.evaluation import benchmark
    from posepile.prediction.predictor import Predictor, find_model_file

    paths = [find_model_file(path) for path in paths]
    files = dict(zip(distinct_names(paths), paths, strict=True))
    datasets, views = benchmark_datasets(), augmented_views()
    predictors = {name: Predictor(path, extra_formats=_EXTRA_FORMATS.value) for name, path in files.items()}
    benchmark.check_models(predictors, datasets)
    return {dataset.name: show_comparison(benchmark.compare_models(predictors, dataset, _CONFIDENCE.value, views), files)
            for dataset in datasets}


def show_comparison(record: dict, files: dict[str, pathlib.Path]) -> dict:
    """Prints what is compared, and the tables. Returns: the record, with the files."""
    files = {name: str(path) for name, path in files.items()}
    print("\n".join(["", json.dumps(record["stamp"]), *(f"{name}: {path}" for name, path in files.items()), "",
                     format_differences(record)]))
    return {**record, "files": files}


def augmented_views():
    """The `Views` that --num-aug and --flip-aug ask for. Raises: ValueError."""
    from posepile.prediction.test_time_augmentation import make_views

    return make_views(_NUM_AUG.value, _FLIP_AUG.value)


def benchmark_datasets() -> list:
    """The `PreparedDataset`s that --benchmarks names. Raises: FileNotFoundError naming what is not prepared, or missing."""
    from posepile.data.records import PreparedDataset

    datasets = [PreparedDataset(pathlib.Path(common_flags.DATA_ROOT.value) / name) for name in benchmark_names()]
    for dataset in datasets:
        dataset.check_files()
    return datasets


def benchmark_names() -> list[str]:
    """The data sets that --benchmarks names, those of sets included."""
    from datasets import dataset_set as sets

    data_root, names = common_flags.DATA_ROOT.value, []
    for name in _BENCHMARKS.value:
        is_set = name in sets.list_dataset_sets() or name.endswith(".toml")
        names += sets.load_dataset_set(name, data_root).evaluation if is_set else [sets.normalize_name(name)]
    if not names:
        raise ValueError(f"--benchmarks={','.join(_BENCHMARKS.value)} names no data set to evaluate on")
    return list(dict.fromkeys(names))


def with_commas(argv: list[str]) -> list[str]:
    """--compare A B -> --compare=A,B: absl takes one value."""
    result = []
    for argument in argv:
        if result and result[-1].startswith("--compare") and not argument.startswith("-"):
            separator = "," if "=" in result[-1] else "="
            result[-1] += separator + argument
        else:
            result.append(argument)
    return result


if __name__ == "__main__":
    app.run(main, argv=common_flags.with_underscores(with_commas(sys.argv)))
