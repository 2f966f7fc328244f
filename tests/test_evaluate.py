"""evaluate.py: a model on prepared data, and files of predictions, which need no TensorFlow."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

import evaluate
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


def test_files_are_scored_without_tensorflow(files, tmp_path):
    program = tmp_path / "without_tensorflow.py"
    program.write_text(f"""
import importlib.abc, runpy, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras"):
            raise ModuleNotFoundError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {str(end_to_end.REPOSITORY)!r})
runpy.run_path({str(end_to_end.REPOSITORY / "evaluate.py")!r}, run_name="__main__")
""")
    output = tmp_path / "scores.json"

    result = subprocess.run([sys.executable, str(program), *files, f"--output={output}"], capture_output=True, text=True,
                            cwd=tmp_path)

    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(rf"^mpjpe +{MPJPE:.2f}$", result.stdout, re.MULTILINE)
    scores = json.loads(output.read_text())
    assert scores["metrics"]["mpjpe"] == pytest.approx(MPJPE)
    assert scores["metrics"]["num_poses"] == 2


def test_run_is_scored_as_the_training_did(finished_run, tiny_data_root, tmp_path):
    run, _ = finished_run

    result = end_to_end.run_program("evaluate.py", f"--model={run}", "--benchmarks=demo", f"--data-root={tiny_data_root}",
                                    "--output=scores.json", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert "synthetic_test:" in result.stdout and "MPJPE, mm" in result.stdout
    expected = json.loads((run / "evaluation" / "finetuned.json").read_text())
    assert json.loads((tmp_path / "scores.json").read_text()) == expected


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
    for arguments in ([], files[:1], files[1:], [*files, "--model=runs/demo"]):
        assert_refused(arguments, ["give either --model, or --predictions and --annotations"])


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
