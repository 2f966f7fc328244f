"""Scores a trained model on prepared data sets, or any method's prediction file against an annotation file.

    python evaluate.py --model=runs/demo --benchmarks=demo
    python evaluate.py --model=FILE.keras --benchmarks=h36m,my_rig --data-root=DIR --output=scores.json
    python evaluate.py --compare runs/demo/initial.keras runs/demo/finetuned.keras --benchmarks=demo
    python evaluate.py --model=runs/demo --benchmarks=my_rig --save-predictions=poses.npz
    python evaluate.py --model=runs/demo --benchmarks=my_rig --extra-formats=my_rig_8.npz
    python evaluate.py --predictions=P.npz --annotations=A.npz
    python evaluate.py --compare P.npz Q.npz --annotations=A.npz

--compare scores two or more on the same poses and gives the difference of each to the first, with its confidence interval.
--save-predictions stores predictions beside labels of a format that the model lacks, for `python -m ace add-skeleton`, which
makes a file for --extra-formats. Files of predictions need neither TensorFlow nor prepared data; of P.npz and A.npz:
`posepile/evaluation/prediction_files.py`.
"""

import json
import os
import pathlib
import sys

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from datasets import dataset_set as sets
from datasets import flags as common_flags
from posepile.data.records import PreparedDataset, write_json
from posepile.evaluation.comparison import compare_files, distinct_names
from posepile.evaluation.scoring import PROTOCOLS, json_ready, score_files
from posepile.evaluation.table import format_differences, format_metrics, format_scores

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
_OUTPUT = flags.DEFINE_string("output", None, "JSON file that gets all numbers.")
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
        sys.exit("stopped; nothing is written")


def score() -> dict:
    """Does what the flags ask for, and prints it. Returns: all numbers."""
    if _MODEL.value and not (_PREDICTIONS.value or _ANNOTATIONS.value or _COMPARE.value):
        return save_predictions() if _SAVE_PREDICTIONS.value else score_model()
    if _PREDICTIONS.value and _ANNOTATIONS.value and not (_MODEL.value or _COMPARE.value):
        scores = score_files(_PREDICTIONS.value, _ANNOTATIONS.value, _PROTOCOL.value, _CONFIDENCE.value)
        print(format_metrics(scores))
        return scores
    if _COMPARE.value and not (_MODEL.value or _PREDICTIONS.value):
        return compare()
    raise ValueError("give either --model, or --predictions and --annotations, or --compare")


def score_model() -> dict:
    """Scores --model on --benchmarks and prints a table for each. Returns: scores per data set."""
    from posepile.evaluation import benchmark
    from posepile.prediction.predictor import Predictor, find_model_file

    path = find_model_file(_MODEL.value)
    predictor = Predictor(path, extra_formats=_EXTRA_FORMATS.value)
    scores = {}
    for dataset in benchmark_datasets():
        record = scores[dataset.name] = benchmark.evaluate_dataset(predictor, dataset)
        print(f"\n{dataset.name}: {json.dumps(record['stamp'])}\n{format_scores({path.stem: record})}")
    return scores


def save_predictions() -> dict:
    """Writes --save-predictions. Returns: what is in it, in numbers."""
    from posepile.evaluation import benchmark
    from posepile.prediction.predictor import Predictor

    path, datasets = pathlib.Path(_SAVE_PREDICTIONS.value), benchmark_datasets()
    if len(datasets) != 1:
        raise ValueError(f"--save-predictions takes one data set in --benchmarks, got {len(datasets)}")
    if _EXTRA_FORMATS.value:
        raise ValueError("--save-predictions stores the model's own joints; leave out --extra-formats")
    if path.exists():
        raise ValueError(f"{path} exists; name another --save-predictions, or delete it")
    record = benchmark.save_predictions(Predictor(_MODEL.value), datasets[0], path)
    print(f"{datasets[0].name}: {json.dumps(record)}\nwritten: {path}")
    return record


def compare() -> dict:
    """Compares the models or prediction files of --compare. Returns: a record; for models one per data set."""
    paths = [pathlib.Path(path) for path in _COMPARE.value]
    if len(paths) < 2:
        raise ValueError(f"--compare takes two models or prediction files, or more; got {len(paths)}")
    if not 0 < _CONFIDENCE.value < 1:
        raise ValueError(f"--confidence must be above 0 and below 1, such as 0.95; got {_CONFIDENCE.value}")
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
    datasets = benchmark_datasets()
    predictors = {name: Predictor(path, extra_formats=_EXTRA_FORMATS.value) for name, path in files.items()}
    benchmark.check_models(predictors, datasets)
    return {dataset.name: show_comparison(benchmark.compare_models(predictors, dataset, _CONFIDENCE.value), files)
            for dataset in datasets}


def show_comparison(record: dict, files: dict[str, pathlib.Path]) -> dict:
    """Prints what is compared, and the tables. Returns: the record, with the files."""
    files = {name: str(path) for name, path in files.items()}
    print("\n".join(["", json.dumps(record["stamp"]), *(f"{name}: {path}" for name, path in files.items()), "",
                     format_differences(record)]))
    return {**record, "files": files}


def benchmark_datasets() -> list[PreparedDataset]:
    """The data sets that --benchmarks names. Raises: FileNotFoundError naming what is not prepared, or missing."""
    datasets = [PreparedDataset(pathlib.Path(common_flags.DATA_ROOT.value) / name) for name in benchmark_names()]
    for dataset in datasets:
        dataset.check_files()
    return datasets


def benchmark_names() -> list[str]:
    """The data sets that --benchmarks names, those of sets included."""
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
