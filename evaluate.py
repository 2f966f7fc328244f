"""Scores a trained model on prepared data sets, or any method's prediction file against an annotation file.

    python evaluate.py --model=runs/demo --benchmarks=demo
    python evaluate.py --model=FILE.keras --benchmarks=h36m,my_rig --data-root=DIR --output=scores.json
    python evaluate.py --predictions=P.npz --annotations=A.npz

The last form needs neither TensorFlow nor prepared data. Of P.npz and A.npz: `posepile/evaluation/scoring.py`.
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
from posepile.evaluation.scoring import PROTOCOLS, json_ready, score_files
from posepile.evaluation.table import format_comparison, format_metrics

_MODEL = flags.DEFINE_string("model", None, "A run's folder (its finetuned model, else its initial one), or a .keras file.")
_BENCHMARKS = flags.DEFINE_list("benchmarks", ["demo"], "Prepared data sets, or sets of them such as demo.")
_PREDICTIONS = flags.DEFINE_string("predictions", None, "A method's predictions, .npz.")
_ANNOTATIONS = flags.DEFINE_string("annotations", None, "The annotations they are scored against, .npz.")
_PROTOCOL = flags.DEFINE_string("protocol", "flat", f"How files are scored: {', '.join(PROTOCOLS)}.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file that gets all numbers.")
flags.declare_key_flag("data_root")  # for --help


def main(argv):
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments {argv[1:]}; flags are spelled --name=value")
        if _MODEL.value and not (_PREDICTIONS.value or _ANNOTATIONS.value):
            scores = score_model()
        elif _PREDICTIONS.value and _ANNOTATIONS.value and not _MODEL.value:
            scores = score_files(_PREDICTIONS.value, _ANNOTATIONS.value, _PROTOCOL.value)
            print(format_metrics(scores))
        else:
            raise ValueError("give either --model, or --predictions and --annotations")
        if _OUTPUT.value:
            write_json(pathlib.Path(_OUTPUT.value), json_ready(scores))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; nothing is written")


def score_model() -> dict:
    """Scores --model on --benchmarks and prints a table for each. Returns: scores per data set."""
    from posepile.evaluation import benchmark
    from posepile.prediction.predictor import Predictor, find_model_file

    path = find_model_file(_MODEL.value)
    predictor = Predictor(path)
    scores = {}
    for name in benchmark_names():
        dataset = PreparedDataset(pathlib.Path(common_flags.DATA_ROOT.value) / name)
        dataset.check_files()
        scores[name] = benchmark.evaluate_dataset(predictor, dataset)
        print(f"\n{name}: {json.dumps(scores[name]['stamp'])}\n{format_comparison(scores[name], first_name=path.stem)}")
    return scores


def benchmark_names() -> list[str]:
    """The data sets that --benchmarks names, those of sets included."""
    data_root, names = common_flags.DATA_ROOT.value, []
    for name in _BENCHMARKS.value:
        is_set = name in sets.list_dataset_sets() or name.endswith(".toml")
        names += sets.load_dataset_set(name, data_root).evaluation if is_set else [sets.normalize_name(name)]
    if not names:
        raise ValueError(f"--benchmarks={','.join(_BENCHMARKS.value)} names no data set to evaluate on")
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    app.run(main, argv=common_flags.with_underscores(sys.argv))
