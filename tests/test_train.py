"""train.py from end to end: the whole job, stopping and going on, and bad input."""

import hashlib
import itertools
import json
import re
import resource
import shutil
import signal
import sys

import numpy as np
import pytest

import train
from datasets.registry import SYNTHETIC_DATASETS
from posepile.data.records import PreparedDataset
from posepile.evaluation.benchmark import read_truth
from posepile.geometry.skeleton import joint_indices
from posepile.prediction.predictor import load_model
from posepile.training.checkpoints import list_checkpoints
from posepile.training.run_directory import RunDirectory
from tests import end_to_end
from tests.end_to_end import FINETUNE_STEPS, INITIAL_STEPS

HEADLINE = {"mpjpe", "pa_mpjpe", "pck100", "cps200", "inconsistency"}
MODELS = ("initial", "finetuned", "finetuned_hybrid")
PARTS = {"initial", "pseudo_labels", "autoencoder", "finetune", "finetune_hybrid", "evaluate_mean_pose",
         *(f"evaluate_{model}" for model in MODELS), f"report_{'_'.join(MODELS)}"}


def digests(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def leftovers(folder):
    return [path for path in folder.rglob("*") if ".part" in path.name]


# ------------------------------------------------------------------------------------------------------ the whole job


def test_whole_job_leaves_every_file(finished_run):
    run, result = finished_run

    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert names >= {
        "config.json", "initial.keras", "pseudo_labels.npz", "autoencoder.npz", "finetuned.keras", "metrics.jsonl",
        "finetuned_hybrid.keras", "evaluation/mean_pose.json", *(f"evaluation/{model}.json" for model in MODELS),
        "summary.json", "report.html"}
    assert leftovers(run) == []
    table = result.stdout.splitlines()
    assert "pooled over formats mean pose initial finetuned finetuned_" in [" ".join(line.split()) for line in table]
    assert f"{end_to_end.NUM_TEST} images of its test split" in result.stdout
    assert "All phases are done" in table[-1]


def test_summary(finished_run):
    run, _ = finished_run
    summary = json.loads((run / "summary.json").read_text())

    assert summary.keys() == {"mean_pose_mpjpe", *MODELS, "seconds", "peak_memory_mb", "crops_per_second"}
    assert all(summary[model].keys() == HEADLINE for model in MODELS)
    assert summary["seconds"].keys() == PARTS
    assert 100 < summary["mean_pose_mpjpe"] < 1000  # mm, of people
    assert summary["peak_memory_mb"] > 100
    assert summary["crops_per_second"] > 0


def test_scores_are_those_of_the_saved_predictions(finished_run, tiny_data_root):
    """MPJPE worked out anew: all formats of the test set, each relative to its own root, one mean over all joints."""
    run, _ = finished_run
    dataset = PreparedDataset(tiny_data_root / "synthetic_test")
    truth, mask = read_truth(dataset, "test", range(end_to_end.NUM_TEST), 64)
    assert mask.all()
    for model in MODELS:
        predicted = arrays(run / "evaluation" / f"{model}_synthetic_test.npz")["joints3d"]
        errors = []
        for fmt in dataset.skeleton.formats:
            joints = joint_indices(dataset.skeleton, fmt)
            relative = [poses[:, joints] - poses[:, joints[[fmt.root]]] for poses in (predicted, truth)]
            errors.append(np.linalg.norm(relative[0] - relative[1], axis=-1).ravel())
        mpjpe = np.concatenate(errors).mean()
        assert json.loads((run / "summary.json").read_text())[model]["mpjpe"] == pytest.approx(mpjpe, rel=1e-5)


def test_phases_train_what_they_are_to_train(finished_run):
    run, _ = finished_run
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    training, validation = ([r for r in log if ("validation_mpjpe" in r) == is_validation] for is_validation in (False, True))
    ends = [("initial", INITIAL_STEPS), ("finetune", FINETUNE_STEPS), ("finetune_hybrid", FINETUNE_STEPS)]
    assert [(r["phase"], r["step"]) for r in training] == [(r["phase"], r["step"]) for r in validation] == ends
    assert ["loss_consistency" in r for r in training] == [False, True, True]
    assert ["loss_teacher" in r for r in training] == [False, False, True]
    in_3d = {"synthetic_studio", "synthetic_street", "synthetic_gym", "synthetic_garden"}
    assert {f"error/{name}" for name in (*in_3d, "synthetic_photos")} <= training[0].keys()
    assert {f"validation_mpjpe/{name}" for name in in_3d} <= validation[0].keys()
    assert all(np.isfinite(value) for record in log for value in record.values() if isinstance(value, float))
    poses = [arrays(run / "evaluation" / f"{model}_synthetic_test.npz")["joints3d"] for model in MODELS]
    assert {p.shape for p in poses} == {(end_to_end.NUM_TEST, 77, 3)}
    assert all(np.abs(a - b).max() > 1 for a, b in itertools.combinations(poses, 2))  # mm


def test_autoencoder_is_fitted_to_the_pseudo_labels(finished_run):
    run, _ = finished_run
    labels, autoencoder = arrays(run / "pseudo_labels.npz"), arrays(run / "autoencoder.npz")
    poses, encoder, decoder = labels["joints3d"], autoencoder["encoder"], autoencoder["decoder"]

    assert len(poses) + labels["num_left_out"] == 4 * end_to_end.NUM_TRAIN
    assert poses.shape[1:] == (77, 3) and len(labels["joint_names"]) == 77
    np.testing.assert_allclose(encoder.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(decoder.sum(axis=1), 1, atol=1e-5)
    shift = np.array([1000.0, -2000.0, 500.0])  # an affine combination moves along
    reconstructed, moved = (np.einsum("ij,njc->nic", decoder @ encoder, p) for p in (poses, poses + shift))
    np.testing.assert_allclose(moved, reconstructed + shift, atol=0.1)


def test_config_holds_settings_and_versions(finished_run):
    run, _ = finished_run
    config = json.loads((run / "config.json").read_text())

    assert config["settings"]["initial_steps"] == INITIAL_STEPS
    assert config["settings"]["examples_per_batch"]["synthetic_photos"] == 4
    assert config["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"tensorflow", "keras", "numpy"} <= config["versions"].keys()


def test_report_is_one_file(finished_run):
    run, _ = finished_run
    html = (run / "report.html").read_text()

    targets = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", html)
    assert sum(target.startswith("data:image/") for target in targets) + html.count("<svg") >= 3  # curves, weights, people
    assert [t for t in targets if not t.startswith(("data:", "#"))] == []
    assert not re.search(r"url\(\s*[\"']?http|@import", html)
    for word in ("MPJPE", "finetuned", "synthetic_test"):
        assert word in html


def test_same_command_again_changes_nothing(finished_run, tiny_data_root, tiny_set):
    run, first = finished_run
    before = digests(run)

    again = end_to_end.run_program("train.py", f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}",
                                   cwd=run.parents[1])

    assert again.returncode == 0
    assert digests(run) == before
    assert again.stdout == first.stdout  # the table, and that all is done


def test_set_without_evaluation_says_so(finished_run, tiny_set, tmp_path, capsys):
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_set.read_text().replace('datasets = ["synthetic_test"]', ""))
    run = RunDirectory(finished_run[0])
    with end_to_end.command_line(f"--dataset-set={path}"):
        plan = train.make_plan()
    train.evaluate_run(run, train.model_names(plan), [], [], settings={}, crop_side=64)

    assert capsys.readouterr().out == (f"All phases are done: {run.path}. Nothing is evaluated, as the set names no prepared "
                                       "data set under [evaluation].\n")


def test_batchnorm_in_inference_mode_on_its_own(finished_run, tiny_data_root, tiny_set, tmp_path):
    """Statistics stay, everything else learns; and the program says what came of it."""
    run, _ = finished_run
    arguments = [f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}", "--phases=bn_inference",
                 f"--init-from={run / 'finetuned_hybrid.keras'}", "--bn-inference-steps=6"]
    result = end_to_end.run_program("train.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "All phases are done" in result.stdout
    folder = tmp_path / "runs" / "tiny_bn_inference"
    before, after = (load_model(path) for path in (run / "finetuned_hybrid.keras", folder / "bn_inference.keras"))
    changed = {v.path.rpartition("/")[2]: False for v in before.variables}
    for old, new in zip(before.variables, after.variables, strict=True):
        changed[old.path.rpartition("/")[2]] |= bool((np.asarray(old) != np.asarray(new)).any())
    assert changed.pop("kernel") and changed.pop("gamma") and changed.pop("beta") and changed.pop("bias")
    assert not any(changed.values()), changed  # moving statistics, the autoencoder's matrices
    rates = [json.loads(line).get("learning_rate_head") for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rates[0] == pytest.approx(3e-3 / 90)


# -------------------------------------------------------------------------------------------------- stopping, going on


def test_ctrl_c_while_data_are_prepared(tmp_path):
    def is_rendering():
        return any((tmp_path / "data").glob("*/.*.part"))

    status, stderr = end_to_end.run_and_signal(signal.SIGINT, is_rendering, "train.py", cwd=tmp_path)

    assert status == 1
    assert "Traceback" not in stderr
    assert "preparation of synthetic_studio interrupted" in stderr.splitlines()[-1]
    assert "the same command continues" in stderr.splitlines()[-1]
    assert leftovers(tmp_path / "data") == []


def test_ctrl_c_between_the_training_phases(finished_run, tiny_data_root, tiny_set, tmp_path):
    """While images are pseudo-labelled."""
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(finished_run[0], run)
    (run / "pseudo_labels.npz").unlink()
    progress = json.loads((run / "progress.json").read_text())
    (run / "progress.json").write_text(json.dumps({**progress, "done": ["initial"]}))
    program = tmp_path / "interrupted.py"
    program.write_text(f"""
import os, signal, sys
sys.path.insert(0, {str(end_to_end.REPOSITORY)!r})
from absl import app
import train

predict_parts = train.pseudo_labels.predict_parts

def predict_and_interrupt(predictor, dataset, *arguments):
    if dataset.name == "synthetic_gym":
        os.kill(os.getpid(), signal.SIGINT)
    return predict_parts(predictor, dataset, *arguments)

train.pseudo_labels.predict_parts = predict_and_interrupt
app.run(train.main)
""")

    result = end_to_end.run_program(program, f"--dataset_set={tiny_set}", f"--data_root={tiny_data_root}", cwd=tmp_path)

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "stopped. The same command goes on from the last checkpoint."
    assert "Traceback" not in result.stderr
    assert not (run / "pseudo_labels.npz").exists() and leftovers(run) == []
    finished = {path.name for path in (run / "pseudo_labels").iterdir()}
    assert finished == {"synthetic_studio-00000.npz", "synthetic_street-00000.npz"}
    assert json.loads((run / "progress.json").read_text())["done"] == ["initial"]


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--dataset-set=demos"], ["'demos'", "demo, small, medium, full"]),
    (["--dataset-set=gone.toml"], ["gone.toml"]),
    (["--phases=initial,finetuned"], ["finetuned", "initial, autoencoder, finetune"]),
    (["--phases="], ["initial, autoencoder, finetune"]),
    (["--backbone=resnet"], ["'resnet'", "efficientnetv2-b0", "tiny"]),
    (["--backbone=tiny", "--weights=imagenet"], ["tiny", "--weights", "none"]),
    (["--consistency=strong"], ["'strong'", "regularize", "none"]),
    (["--precision=float16"], ["'float16'", "float32, mixed_float16, mixed_bfloat16"]),
    (["--crop-side=100", "--backbone=tiny"], ["crop_side", "multiple of 8", "100"]),
    (["--ghost-batch-size=7", "--dataset-set=small"], ["7", "128"]),
    (["--ghost-batch-size=some"], ["'some'", "3d/2d", "none"]),
    (["--learning-rate=0"], ["learning_rate", "positive"]),
    (["--consistency=latent,latent"], ["latent", "twice"]),
    (["--loss-scale=much"], ["'much'", "dynamic", "128"]),
    (["--average-momentum=1"], ["average_momentum", "0.999"]),
    (["--clip-norm=-1"], ["clip_norm"]),
    (["--micro-batches=3"], ["28", "4", "3 micro-batches"]),
    (["--micro-batches=4"], ["ghost_batch_size 16", "8 examples"]),
    (["--phases=bn_inference"], ["--init-from"]),
    (["--phases=finetune", "--init-from=x.keras"], ["--init-from", "finetune"]),
    (["--phases=bn_inference", "--init-from=x.keras"], ["x.keras"]),
])
def test_wrong_flag_values(tmp_path, arguments, expected):
    message = end_to_end.exit_message(train.main, f"--workdir={tmp_path / 'run'}", f"--data-root={tmp_path}", *arguments)

    assert message.startswith("error: ") and "\n" not in message
    for text in expected:
        assert text in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--steps=0", "--checkpoint-interval=0", "--nonsense"])
def test_flags_that_absl_refuses(tmp_path, flag):
    with pytest.raises(train.flags.Error, match=flag.strip("-").partition("=")[0].replace("-", "_")), \
            end_to_end.command_line(flag):
        pass


@pytest.mark.parametrize(("content", "expected"), [
    ("batch_size = 16\n[datasets_3d]\nsynthetic_studio = 12\n", ["batch_size is 16", "12 (3D)", "Change batch_size"]),
    ("batch_size = 4\n[datasets_3d]\ncoco = 4\n", ["[datasets_3d] lists coco", "move it to [datasets_2d]"]),
    ("batch_size = 4\n[datasets_3d]\nmy_rig = 4\n", ["'my_rig'", "python -m datasets prepare"]),
    ("batch_size = 4\n[datasets_3d]\nsynthetic_studio = 4\n[hyperparameters]\nstep = 3\n", ["step", "initial_steps"]),
    ("batch_size = 4\n[datasets_3d]\nsynthetic_studio = 4\n[hyperparameters]\ninitial_steps = 0\n", ["initial_steps", "1"]),
    ("batch_size = 4\n[datasets_3d\n", ["bad.toml", "line 2"]),
])
def test_wrong_dataset_set_file(tmp_path, content, expected):
    path = tmp_path / "bad.toml"
    path.write_text(content)

    message = end_to_end.exit_message(train.main, f"--dataset-set={path}", f"--workdir={tmp_path / 'run'}",
                                      f"--data-root={tmp_path / 'data'}")

    for text in expected:
        assert text in message
    assert list(tmp_path.iterdir()) == [path]


def test_missing_data_are_listed_with_their_commands(tmp_path):
    result = end_to_end.run_program("train.py", "--dataset-set=full", "--data-root=somewhere", cwd=tmp_path)

    assert result.returncode == 1
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert "not prepared in somewhere" in result.stderr
    for name in ("h36m", "jrdb", "spec"):
        assert f"python -m datasets prepare {name} --raw-dir=RAW_DIR --data-root=somewhere" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_run_with_other_settings_is_left_alone(finished_run, tiny_data_root, tiny_set, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished_run[0] / "config.json", run)
    (run / "initial.keras").write_text("weeks of training")
    before = digests(run)

    message = end_to_end.exit_message(train.main, f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}",
                                      f"--workdir={run}", "--steps=50", "--seed=2")

    assert message.splitlines()[1:3] == [f"  initial_steps: {INITIAL_STEPS} in the run, 50 now", "  seed: 1 in the run, 2 now"]
    assert "--overwrite" in message and "--workdir" in message
    assert digests(run) == before


def test_overwrite_deletes_a_run_but_nothing_else(finished_run, tiny_data_root, tiny_set, tmp_path, monkeypatch):
    def configure(seed, precision):
        raise ValueError("far enough")

    monkeypatch.setattr(train.backend, "configure", configure)
    run, home = tmp_path / "run", tmp_path / "home"
    run.mkdir()
    shutil.copy(finished_run[0] / "config.json", run)
    (run / "initial.keras").write_text("old")
    home.mkdir()
    (home / "letter.txt").write_text("Dear ...")
    arguments = [f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}", "--steps=50", "--overwrite"]

    assert end_to_end.exit_message(train.main, *arguments, f"--workdir={run}") == "error: far enough"
    assert {path.name for path in run.iterdir()} == {".lock", "config.json"}
    assert json.loads((run / "config.json").read_text())["settings"]["initial_steps"] == 50
    for path in (home, home / "letter.txt"):
        message = end_to_end.exit_message(train.main, *arguments, f"--workdir={path}")
        assert "holds no run" in message
    assert (home / "letter.txt").read_text() == "Dear ..."


def test_augmentation_reaches_the_batches(tiny_data_root, tmp_path, monkeypatch):
    """What the set says about single data sets, the folders of pictures and --skip-bad; the latter may be added later on."""
    (tmp_path / "tiny.toml").write_text(end_to_end.TINY_SET + """
        [hyperparameters.augmentation]
        shift = 0.2
        [hyperparameters.dataset_augmentation.synthetic-gym]
        flip_probability = 0.0
    """)
    plans, loaded = [], []

    def train_initial(training, *_):
        plans.append(training.batch_plan)
        raise ValueError("far enough")

    def load_pictures(*arguments):
        loaded.append(arguments)
        return pictures

    pictures = train.load_pictures(64)
    monkeypatch.setattr(train.backend, "configure", lambda seed, precision: None)
    monkeypatch.setattr(train, "train_initial", train_initial)
    monkeypatch.setattr(train, "load_pictures", load_pictures)
    arguments = [f"--dataset-set={tmp_path / 'tiny.toml'}", f"--data-root={tiny_data_root}", f"--workdir={tmp_path / 'run'}",
                 f"--background-dir={tmp_path}"]

    for options in ([], ["--skip-bad"]):
        assert end_to_end.exit_message(train.main, *arguments, *options) == "error: far enough"

    assert [plan.skip_bad for plan in plans] == [False, True]
    assert loaded == [(64, "", str(tmp_path))] * 2 and plans[0].pictures is pictures
    flips = {part.dataset.name: part.augmentation.flip_probability for part in plans[0].parts}
    assert flips == {"synthetic_studio": 0.5, "synthetic_street": 0.5, "synthetic_gym": 0.0, "synthetic_garden": 0.5,
                     "synthetic_photos": 0.5}
    assert {part.augmentation.shift for part in plans[0].parts} == {0.2}
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["dataset_augmentation"] == {"synthetic_gym": {**settings["augmentation"], "flip_probability": 0.0}}


@pytest.mark.parametrize("option", ["occluder-dir", "background-dir"])
def test_missing_folder_of_pictures(tmp_path, option):
    message = end_to_end.exit_message(train.main, f"--{option}={tmp_path / 'gone'}", f"--workdir={tmp_path / 'run'}",
                                      f"--data-root={tmp_path / 'data'}")

    assert message == f"error: --{option}: there is no folder {tmp_path / 'gone'}"
    assert list(tmp_path.iterdir()) == []


def test_phase_without_the_one_before(tiny_data_root, tiny_set, tmp_path, monkeypatch):
    monkeypatch.setattr(train.backend, "configure", lambda seed, precision: None)

    message = end_to_end.exit_message(train.main, f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}",
                                      f"--workdir={tmp_path / 'run'}", "--phases=finetune")

    assert "initial.keras is missing: run the phase initial first" in message


def test_model_of_other_joints_is_refused(finished_run, tiny_data_root, tmp_path):
    """With what is different, before anything is read or written."""
    path = tmp_path / "two.toml"
    path.write_text("batch_size = 16\n[datasets_3d]\nsynthetic_gym = 8\nsynthetic_street = 8\n")
    message = end_to_end.exit_message(
        train.main, f"--dataset-set={path}", f"--data-root={tiny_data_root}", f"--workdir={tmp_path / 'run'}",
        "--phases=bn_inference", f"--init-from={finished_run[0]}")
    assert message.startswith("error: the model has 77 joints, not the 34 of the data sets of two; only the model has: ")
    assert not (tmp_path / "run").exists()


def test_corrupt_record_is_named(tiny_data_root, tiny_set, tmp_path):
    data_root = tmp_path / "data"
    data_root.mkdir()
    for name in SYNTHETIC_DATASETS:
        (data_root / name).symlink_to(tiny_data_root / name)
    (data_root / "synthetic_gym").unlink()
    shutil.copytree(tiny_data_root / "synthetic_gym", data_root / "synthetic_gym")
    shard = data_root / "synthetic_gym" / "train-00000-of-00001.tfrecord"
    offset = int(PreparedDataset(data_root / "synthetic_gym").index("train")[5, 1])
    content = bytearray(shard.read_bytes())
    content[offset + 200] ^= 1
    shard.write_bytes(content)

    result = end_to_end.run_program("train.py", f"--dataset-set={tiny_set}", f"--data-root={data_root}", cwd=tmp_path)

    assert result.returncode == 1  # not aborted, which gives -6
    assert result.stderr.splitlines()[-1].startswith(
        f"error: {shard} at byte {offset}: the record's checksum does not match its content. Delete the shard")
    assert "Traceback" not in result.stderr


def test_full_disk(tiny_data_root, tiny_set, tmp_path):
    """A limit on the size of files stands in for a full disk: the first checkpoint does not fit."""
    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    result = end_to_end.run_program("train.py", f"--dataset-set={tiny_set}", f"--data-root={tiny_data_root}", cwd=tmp_path,
                                    preexec_fn=limit_file_size)

    run = tmp_path / "runs" / "tiny"
    assert result.returncode == 1
    assert "Is the disk full" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert list_checkpoints(run / "checkpoints", "initial") == [] and leftovers(run) == []
    assert not (run / "initial.keras").exists()


def test_one_3d_set_alone(tiny_data_root, tmp_path):
    """As with a rig of one's own: a single format, no 2D labels, scored on its own images."""
    (tmp_path / "alone.toml").write_text("""
batch_size = 16
[datasets_3d]
synthetic_gym = 16
[evaluation]
datasets = ["synthetic_gym"]
[hyperparameters]
backbone = "tiny"
crop_side = 64
initial_steps = 30
finetune_steps = 8
base_learning_rate = 3e-3
autoencoder_sweeps = 5
""")
    result = end_to_end.run_program("train.py", f"--dataset-set={tmp_path / 'alone.toml'}", f"--data-root={tiny_data_root}",
                                    cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "synthetic_gym, 48 images of its validation split" in result.stdout
    summary = json.loads((tmp_path / "runs/alone/summary.json").read_text())
    assert summary["finetuned"]["mpjpe"] > 0 and summary["finetuned"]["inconsistency"] is None
