"""evaluate.py: a model on prepared data, and files of predictions, which need no TensorFlow."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

import evaluate
from posepile.data.records import PreparedDataset
from posepile.evaluation import benchmark
from posepile.geometry.skeleton import merged_joint_names, skeleton_from_dict
from posepile.prediction.predictor import Predictor
from posepile.prediction.test_time_augmentation import make_views
from tests import end_to_end

# Two poses of three joints, metres apart enough to pass as millimetres. Relative to joint 0 the errors are
# 0, 5, 13 and 0, 10, 0 mm: their mean is 28 / 6.
TRUTH = np.array([[[0, 0, 3000], [500, 0, 3000], [0, 700, 3000]], [[100, 0, 4000], [600, 0, 4000], [100, 700, 4000.0]]])
ERRORS = np.array([[[0, 0, 0], [3, 4, 0], [5, 0, 12]], [[0, 0, 0], [0, 10, 0], [0, 0, 0.0]]])
MPJPE = (5 + 13 + 10) / 6


@pytest.fixture
def files(tmp_path):
    """Predictions, moved as a whole, and annotations: the paths as flags."""
    predictions, annotations = tmp_path / "predictions.npz", tmp_path / "annotations.npz"
    np.savez(predictions, joints3d=TRUTH + ERRORS + [70, -30, 110])
    np.savez(annotations, joints3d=TRUTH)
    return [f"--predictions={predictions}", f"--annotations={annotations}"]


@pytest.fixture
def without_tensorflow(tmp_path):
    """Runs evaluate.py with its arguments where nothing that trains, decodes or draws can be imported."""
    program = tmp_path / "without_tensorflow.py"
    program.write_text(f"""
import importlib.abc, runpy, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "cv2", "matplotlib"):
            raise ModuleNotFoundError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {str(end_to_end.REPOSITORY)!r})
runpy.run_path({str(end_to_end.REPOSITORY / "evaluate.py")!r}, run_name="__main__")
""")
    return lambda *arguments: subprocess.run([sys.executable, str(program), *map(str, arguments)], cwd=tmp_path,
                                             capture_output=True, text=True)


def test_files_are_scored_without_tensorflow(files, without_tensorflow, tmp_path):
    output, folder = tmp_path / "scores.json", tmp_path / "evaluation"

    result = without_tensorflow(*files, f"--output={output}", f"--output-dir={folder}")

    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(rf"^MPJPE, mm +{MPJPE:.2f} \[", result.stdout, re.MULTILINE)
    scores = json.loads(output.read_text())
    assert scores["metrics"]["mpjpe"] == pytest.approx(MPJPE)
    assert scores["metrics"]["num_poses"] == 2
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "scores.csv", "scores.json"]
    assert json.loads((folder / "scores.json").read_text()) == scores
    assert "annotations,flat,,,mpjpe," in (folder / "scores.csv").read_text()
    assert "Evaluation of predictions" in (folder / "report.html").read_text()


@pytest.mark.parametrize("arguments", [("--compare", "better.npz", "predictions.npz"),
                                       ("--compare=better.npz,predictions.npz",)])
def test_files_are_compared_without_tensorflow(files, without_tensorflow, tmp_path, arguments):
    np.savez(tmp_path / "better.npz", joints3d=TRUTH + ERRORS / 2)
    output = tmp_path / "differences.json"

    result = without_tensorflow(*arguments, files[1], "--output", output)

    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(rf"^MPJPE, mm +{MPJPE / 2:.2f} +{MPJPE:.2f} +\+{MPJPE / 2:.2f} \[", result.stdout, re.MULTILINE)
    record = json.loads(output.read_text())
    assert record["differences"]["predictions"]["pooled"]["mpjpe"]["difference"] == pytest.approx(MPJPE / 2)
    assert record["files"] == {"better": "better.npz", "predictions": "predictions.npz"}
    assert record["stamp"]["resampled"] == "poses" and record["stamp"]["reference"] == "better"


def test_files_to_compare_stand_after_the_flag():
    assert evaluate.with_commas(["e", "--compare", "A", "B", "C", "--data-root", "D"]) == [
        "e", "--compare=A,B,C", "--data-root", "D"]
    assert evaluate.with_commas(["e", "A", "--compare=B,C", "D"]) == ["e", "A", "--compare=B,C,D"]


def test_run_is_scored_as_the_training_did(finished_run, tiny_data_root, tmp_path):
    run, _ = finished_run

    result = end_to_end.run_program("evaluate.py", f"--model={run}", "--benchmarks=demo", f"--data-root={tiny_data_root}",
                                    "--output=scores.json", "--output-dir=all", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert "\nsynthetic_test\n" in result.stdout and "MPJPE, mm" in result.stdout
    expected = json.loads((run / "evaluation" / "finetuned.json").read_text())
    scores = json.loads((tmp_path / "scores.json").read_text())
    mean = scores.pop("mean_primary_error")
    assert scores == expected
    mpjpe = expected["synthetic_test"]["pooled"]["mpjpe"]
    assert mean == {"value": mpjpe, "unit": "mm", "of": {"synthetic_test": {"metric": "mpjpe", "value": mpjpe}}}
    assert f"Mean primary error: {mpjpe:.1f} mm (synthetic_test MPJPE {mpjpe:.1f})" in result.stdout
    files = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*") if path.is_file()}
    assert files == {"scores.json", "scores.csv", "report.html", "predictions/synthetic_test.npz",
                     "annotations/synthetic_test.npz"}
    assert f"Evaluation of {run.name}/finetuned" in (tmp_path / "all" / "report.html").read_text()


def test_model_file_on_a_named_data_set(finished_run, tiny_data_root, tmp_path, capsys):
    run, _ = finished_run
    output = tmp_path / "scores.json"
    with end_to_end.command_line(f"--model={run / 'initial.keras'}", "--benchmarks=synthetic-test",
                                 f"--data-root={tiny_data_root}", f"--output={output}"):
        evaluate.main(["evaluate.py"])

    expected = json.loads((run / "evaluation" / "initial.json").read_text())
    scores = json.loads(output.read_text())
    assert scores["synthetic_test"]["pooled"] == pytest.approx(expected["synthetic_test"]["pooled"], rel=1e-6)
    assert f"{scores['synthetic_test']['pooled']['mpjpe']:.1f}" in capsys.readouterr().out


def test_models_are_compared_and_their_runs_left_alone(finished_run, tiny_data_root, tmp_path, capsys):
    run, _ = finished_run
    before, output = sorted(run.rglob("*")), tmp_path / "differences.json"
    with end_to_end.command_line(f"--compare={run / 'initial.keras'},{run},{run / 'initial.keras'}", "--confidence=0.9",
                                 f"--data-root={tiny_data_root}", f"--output={output}"):
        evaluate.main(["evaluate.py"])

    record = json.loads(output.read_text())["synthetic_test"]
    scores = {name: json.loads((run / "evaluation" / f"{name}.json").read_text())["synthetic_test"]["pooled"]
              for name in ("initial", "finetuned")}
    mpjpe = record["differences"]["finetuned"]["pooled"]["mpjpe"]
    assert mpjpe["difference"] == pytest.approx(scores["finetuned"]["mpjpe"] - scores["initial"]["mpjpe"], rel=1e-4)
    assert mpjpe["low"] < mpjpe["difference"] < mpjpe["high"]
    again = record["differences"]["initial (2)"]["pooled"]["mpjpe"]
    assert again["difference"] == again["low"] == again["high"] == 0
    assert record["stamp"]["resampled"] == "sequences" and record["stamp"]["num_groups"] > 1
    assert f"{mpjpe['difference']:+.2f} [" in capsys.readouterr().out
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(("arguments", "views"), [(["--num-aug=3"], {"num_aug": 3}), (["--flip-aug"], {"flip_aug": True})])
def test_test_time_augmentation(arguments, views, finished_run, tiny_data_root, tmp_path):
    run, output = finished_run[0], tmp_path / "scores.json"
    arguments = [*arguments, f"--data-root={tiny_data_root}", f"--output={output}"]
    with end_to_end.command_line(f"--model={run}", *arguments):
        evaluate.main(["evaluate.py"])
    record = json.loads(output.read_text())["synthetic_test"]
    dataset = PreparedDataset(tiny_data_root / "synthetic_test")
    expected = benchmark.evaluate_dataset(Predictor(run), dataset, views=make_views(**views))
    assert record["pooled"] == pytest.approx(expected["pooled"], rel=1e-4)
    plain = json.loads((run / "evaluation" / "finetuned.json").read_text())["synthetic_test"]
    assert record["pooled"]["mpjpe"] != pytest.approx(plain["pooled"]["mpjpe"], rel=1e-4)
    assert make_views(**views).stamp.items() <= record["stamp"].items()

    with end_to_end.command_line(f"--compare={run},{run / 'initial.keras'}", *arguments):
        evaluate.main(["evaluate.py"])
    record = json.loads(output.read_text())["synthetic_test"]
    assert record["models"]["finetuned"]["pooled"] == pytest.approx(expected["pooled"], rel=1e-4)


def test_bad_test_time_augmentation(finished_run, tiny_data_root, files):
    for base in ([f"--model={finished_run[0]}"], [f"--compare={finished_run[0]},{finished_run[0]}"],
                 [f"--model={finished_run[0]}", "--save-predictions=new.npz", "--benchmarks=synthetic_photos"]):
        for arguments, expected in ((["--num-aug=0"], ["num_aug must be a whole number from 1 on", "got 0"]),
                                    (["--num-aug=-5"], ["got -5"]),
                                    (["--num-aug=5", "--flip-aug"], ["leave out num_aug, which is 5"])):
            assert_refused([*base, f"--data-root={tiny_data_root}", *arguments], expected)
    for arguments in (["--num-aug=5"], ["--flip-aug"]):
        assert_refused([*files, *arguments], ["--num-aug and --flip-aug", "leave them out for files of predictions"])
    with pytest.raises(flags.IllegalFlagValueError, match="num_aug=five"), end_to_end.command_line("--num-aug=five"):
        pass


def test_predictions_are_saved_for_a_new_format(finished_run, tiny_data_root, tmp_path, capsys):
    run, path = finished_run[0], tmp_path / "both.npz"
    arguments = [f"--model={run}", "--benchmarks=synthetic_photos", f"--data-root={tiny_data_root}",
                 f"--save-predictions={path}"]
    with end_to_end.command_line(*arguments):
        evaluate.main(["evaluate.py"])
    assert f"written: {path}" in capsys.readouterr().out
    with np.load(path) as file, np.load(run / "autoencoder.npz") as autoencoder:
        assert file["joints3d"].shape[1] == autoencoder["encoder"].shape[1]
        assert file["new_joints2d"].shape == (len(file["joints3d"]), len(file["new_joint_names"]), 2)
    assert_refused(arguments, ["both.npz exists"])
    assert_refused([*arguments[:3], "--save-predictions=new.npz", "--extra-formats=F.npz"], ["leave out --extra-formats"])
    assert_refused([arguments[0], "--benchmarks=synthetic_photos,synthetic_test", *arguments[2:3],
                    "--save-predictions=new.npz"], ["one data set", "got 2"])


def test_an_added_format_is_scored(finished_run, tiny_data_root, tmp_path):
    """The model's joints of one format under another name, on data labelled under that name."""
    run = finished_run[0]
    with np.load(run / "pseudo_labels.npz") as file:
        names = file["joint_names"].tolist()
    source = tiny_data_root / "synthetic_test"
    manifest = json.loads((source / "manifest.json").read_text())
    labelled = skeleton_from_dict(manifest["skeleton"])
    renamed = {"name": "renamed", "joints": list(labelled.joint_names)}
    shutil.copytree(source, tmp_path / "renamed")
    (tmp_path / "renamed" / "manifest.json").write_text(json.dumps({**manifest, "name": "renamed", "skeleton": renamed}))
    rows = [names.index(name) for name in (labelled.joint_names if labelled.formats else merged_joint_names(labelled))]
    np.savez(tmp_path / "renamed.npz", weights=np.eye(len(names), dtype=np.float32)[rows], joint_names=names,
             skeleton=json.dumps(renamed))
    flags = [f"--model={run}", "--benchmarks=renamed", f"--data-root={tmp_path}"]
    assert_refused(flags, ["labelled in renamed, which this model was not trained on"])
    with end_to_end.command_line(*flags, f"--extra-formats={tmp_path / 'renamed.npz'}", f"--output={tmp_path / 's.json'}"):
        evaluate.main(["evaluate.py"])
    score = json.loads((tmp_path / "s.json").read_text())["renamed"]["pooled"]
    expected = json.loads((run / "evaluation" / "finetuned.json").read_text())["synthetic_test"]["pooled"]
    assert score["a_mpjpe"] == pytest.approx(expected["a_mpjpe"], rel=0.2)  # formats weigh differently in the mean
    np.savez(tmp_path / "renamed.npz", weights=np.eye(3, dtype=np.float32), joint_names=["a", "b", "c"],
             skeleton=json.dumps({"name": "abc", "joints": ["a", "b", "c"]}))
    assert_refused([*flags, f"--extra-formats={tmp_path / 'renamed.npz'}"], ["renamed.npz is for a model with 3 joints"])


def test_bad_primaries_and_folders(files, finished_run, tiny_data_root, tmp_path):
    model, root = f"--model={finished_run[0]}", f"--data-root={tiny_data_root}"
    assert_refused([model, root, "--primary=synthetic_test:mpjp"], ["unknown metric mpjp", "pa_mpjpe"])
    assert_refused([model, root, "--primary=h36m:mpjpe"], ["h36m is not evaluated", "synthetic_test"])
    assert_refused([*files, "--primary=h36m:mpjpe"], ["--primary is for --model"])
    assert_refused([model, root, "--protocol=h36m"], ["--protocol is for files of predictions"])
    (tmp_path / "file").write_text("")
    assert_refused([model, root, f"--output-dir={tmp_path / 'file' / 'new'}"], ["file"])
    assert_refused([*files, f"--output-dir={tmp_path / 'file' / 'new'}"], ["file"])
    assert_refused(["--compare=A.npz,B.npz", files[1], "--output-dir=new"], ["--output-dir", "use --output"])
    assert_refused([model, root, "--confidence=95"], ["--confidence", "0.95"])


def test_bad_comparisons(files, finished_run, tiny_data_root, tmp_path):
    run, predictions = finished_run[0], files[0].partition("=")[2]
    root = f"--data-root={tiny_data_root}"
    for arguments, expected in (
            (["--compare=A.keras"], ["two models", "got 1"]),
            ([f"--compare={run},{tmp_path / 'gone.keras'}", root], ["no model file", "gone.keras"]),
            ([f"--compare={run},{tmp_path}", root], ["neither finetuned.keras nor initial.keras"]),
            ([f"--compare={run},{run}", f"--data-root={tmp_path}"], ["synthetic_test is not prepared"]),
            ([f"--compare={predictions},{predictions}"], ["predictions.npz", "--annotations"]),
            ([f"--compare={predictions},{tmp_path / 'gone.npz'}", files[1]], ["gone.npz", "no such file"]),
            ([f"--compare={predictions},{predictions}", files[1], "--confidence=95"], ["--confidence", "0.95"])):
        assert_refused(arguments, expected)


def test_bad_files(files, tmp_path):
    predictions, annotations = files
    text, short = tmp_path / "text.npz", tmp_path / "short.npz"
    text.write_text("joints3d")
    np.savez(short, joints3d=TRUTH[:1])
    metres = tmp_path / "metres.npz"
    np.savez(metres, joints3d=TRUTH / 1000)
    for arguments, expected in (
            ([f"--predictions={tmp_path / 'gone.npz'}", annotations], ["gone.npz", "no such file"]),
            ([f"--predictions={text}", annotations], ["text.npz", ".npz"]),
            ([f"--predictions={short}", annotations], ["[1, 3, 3]", "[2, 3, 3]"]),
            ([f"--predictions={metres}", annotations], ["metres.npz", "multiply by 1000"]),
            ([predictions, annotations, "--protocol=strict"], ["'strict'", "flat"])):
        assert_refused(arguments, expected)


def test_unclear_command_lines(files):
    for arguments in ([], files[:1], files[1:], [*files, "--model=runs/demo"], [*files, "--compare=A,B"],
                      ["--model=runs/demo", "--compare=A,B"]):
        assert_refused(arguments, ["give either --model, or --predictions and --annotations, or --compare"])
    with pytest.raises(SystemExit, match="unexpected arguments"):
        evaluate.main(["evaluate.py", "A.npz"])


def test_bad_models(finished_run, tiny_data_root, tmp_path):
    run, _ = finished_run
    noise, part, empty = tmp_path / "noise.keras", tmp_path / "part.keras", tmp_path / "empty"
    noise.write_bytes(np.random.default_rng(1).bytes(50_000))
    part.write_bytes((run / "initial.keras").read_bytes()[:50_000])
    empty.mkdir()
    root = f"--data-root={tiny_data_root}"
    assert_refused([f"--model={tmp_path / 'gone.keras'}", root], ["no model file", "gone.keras"])
    assert_refused([f"--model={noise}", root], ["noise.keras", "not a .keras file"])
    assert_refused([f"--model={part}", root], ["part.keras", "only a part of one"])
    assert_refused([f"--model={empty}", root], ["neither finetuned.keras nor initial.keras"])


def test_bad_benchmarks(finished_run, tiny_data_root, tmp_path):
    model = f"--model={finished_run[0]}"
    assert_refused([model, f"--data-root={tmp_path}"], ["synthetic_test is not prepared", "python -m datasets prepare"])
    assert_refused([model, f"--data-root={tiny_data_root}", "--benchmarks=synthetic_photos"], ["2D labels only"])
    assert_refused([model, f"--data-root={tiny_data_root}", "--benchmarks="], ["--benchmarks"])


def test_output_that_cannot_be_written(files, tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused([*files, f"--output={tmp_path / 'file' / 'scores.json'}"], ["file"])


def assert_refused(arguments, expected):
    """The program ends with one line that contains the expected texts."""
    message = end_to_end.exit_message(evaluate.main, *arguments)
    assert message.startswith("error: ") and "\n" not in message
    for text in expected:
        assert text in message


@pytest.mark.parametrize("program", ["train.py", "evaluate.py"])
def test_help_names_every_flag(program, tmp_path):
    result = end_to_end.run_program(program, "--help", cwd=tmp_path)

    source = (end_to_end.REPOSITORY / program).read_text()
    names = {*re.findall(r'flags\.DEFINE_\w+\("(\w+)"', source), "data_root"}
    assert names <= set(re.findall(r"--(?:\[no\])?(\w+):", result.stdout))
    assert result.stdout.startswith(source[3:60])  # the docstring with examples
