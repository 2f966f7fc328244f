"""The study with planted effects in the place of trainings, and its parts on numbers worked out by hand."""

import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import ace
import train
from benchmarks import reproduction, reproduction_effects
from benchmarks.reproduction import VARIANTS, Sizes, Variant
from benchmarks.reproduction_directions import DIRECTIONS, FIGURES
from benchmarks.reproduction_effects import Measured
from posepile.data.records import PreparedDataset
from posepile.evaluation import metrics
from posepile.evaluation.benchmark import read_scored
from posepile.evaluation.prediction_files import read_predictions
from posepile.evaluation.scoring import score_merged
from posepile.evaluation.statistics import PoseSums, bootstrap
from posepile.geometry.skeleton import Skeleton, merge_skeletons
from tests import end_to_end

# Errors of the planted models, as multiples of those of the default training's initial model.
FACTORS = {"x2": 0.9, "x4": 1.3, "ghost_16_without": 1.25, "plain": 1.1, "plain_without": 1.1}
PHASE_FACTORS = {"initial": 1.0, "finetuned": 0.6, "finetuned_none": 0.6}


def direction(text):
    return next(d for d in DIRECTIONS if d.text == text)


# ----------------------------------------------------------------------------------------------------------- directions


def test_directions_compare_models_that_are_trained():
    models = {f"{name}/{model}" for name, variant in VARIANTS.items() for model in variant.model_names()}
    models |= {"default/autoencoder", "default/autoencoder_without_l1"}
    compared = {model for d in DIRECTIONS for model in d.difference}
    assert models - {"plain/initial", "plain_without/initial"} == compared
    assert all(sum(d.difference.values()) == 0 and set(d.figures) <= FIGURES.keys() for d in DIRECTIONS)
    assert len({d.text for d in DIRECTIONS}) == len(DIRECTIONS)


def test_published_differences_have_the_direction_that_is_claimed():
    """On most of the four benchmarks; the tables, not the text, are the source of what stands beside our figures."""
    num_checked = 0
    for d in DIRECTIONS:
        for figure in d.figures:
            published = reproduction_effects.published_differences(d, figure)
            if published is not None and d.improves is not None:
                gains = np.array(list(published.values())) * (1 if FIGURES[figure].more_is_better == d.improves else -1)
                assert (gains > 0).sum() > (gains < 0).sum(), (d.text, figure)
                num_checked += 1
    assert num_checked > 50


def test_published_differences_by_hand():
    def found(text, figure):
        return list(reproduction_effects.published_differences(direction(text), figure).values())

    assert found("Without the inference-mode steps Ghost BN 16 is worse, finetuned", "cps200") == [-3.2, -2.5, -2.6, -1.8]
    assert found("Without the inference-mode steps Ghost BN 3D/2D is worse, finetuned", "cps200") == [-11.9, -7.1, -10.0, -7.9]
    assert found("Fine-tuning with consistency helps after training 4 times as long", "cps200") == [6.9, 0.8, 0.9, 0.0]
    assert found("Fine-tuning with consistency helps", "cps200 - pck100")[0] == 4.1  # (66.6 - 60.0) - (70.3 - 67.8)
    assert found("Leaving them out costs Ghost BN 16 more than plain BatchNorm", "mpjpe")[0] == 2.4  # 2.2 - -0.2
    assert reproduction_effects.published_differences(direction("Fine-tuning with consistency helps"), "cps400") is None


# ------------------------------------------------------------------------------------------------------------- effects


def test_figures_are_those_of_the_evaluation():
    rng = np.random.default_rng(0)
    skeleton = merge_skeletons([Skeleton(name, name, ("pelvis", "neck", "head"), (0, 1, 2), (), 0) for name in ("one", "two")])
    true = rng.normal((0, 0, 4000), 200, (40, 6, 3))
    pred = true + rng.normal(0, 110, true.shape) + [0, 0, 900]  # which no figure here minds
    validity = rng.random((40, 6)) < 0.9
    found = reproduction_effects.figure_sums(pred, true, validity, skeleton)
    found = dict(zip(found.names, found.values(), strict=True))
    expected = score_merged(pred, true, validity, skeleton)
    assert found.pop("inconsistency") == pytest.approx(expected["inconsistency"]["total"], rel=1e-12)
    by_format = [[array[:, joints] for array in (pred, true, validity)] for joints in (slice(0, 3), slice(3, 6))]
    wide = metrics.cps(*(np.concatenate(arrays) for arrays in zip(*by_format, strict=True)), threshold=400)
    assert 0 < wide < 100 and found.pop("cps400") == pytest.approx(wide, rel=1e-12)
    assert found == pytest.approx({name: expected["pooled"][name] for name in found}, rel=1e-12)
    assert found.keys() == {"mpjpe", "pa_mpjpe", "pck100", "cps200"}


def test_intervals_by_hand():
    one = reproduction_effects.crossed_interval(5.0, ((2.0, 3), (0.0, 0)), 0.95)
    assert one == pytest.approx((5 - 2 * stats.t.ppf(0.975, 2), 5 + 2 * stats.t.ppf(0.975, 2)))
    both = reproduction_effects.crossed_interval(0.0, ((3.0, 3), (4.0, 31)), 0.9)
    freedom = 25**2 / (81 / 2 + 256 / 30)
    assert both == pytest.approx((-5 * stats.t.ppf(0.95, freedom), 5 * stats.t.ppf(0.95, freedom)))
    assert all(map(math.isnan, reproduction_effects.crossed_interval(0.0, ((0.0, 3), (0.0, 30)), 0.95)))


@pytest.mark.parametrize(("of_seeds", "of_people"), [(1.0, 0.1), (0.1, 3.0), (0.5, 1.5)])
def test_intervals_contain_the_planted_difference_as_often_as_they_say(of_seeds, of_people):
    """Differences with an effect of the seed, one of the person, and one of both."""
    rng, num_trials, num_seeds, num_people = np.random.default_rng(1), 300, 3, 20
    hits = 0
    for _ in range(num_trials):
        differences = (7 + of_seeds * rng.normal(size=(num_seeds, 1)) + of_people * rng.normal(size=num_people)
                       + rng.normal(0, 0.2, (num_seeds, num_people)))
        sums = [PoseSums(("mpjpe",), row[None], np.ones((1, num_people))) for row in differences]
        model = Measured(("mpjpe",), np.stack([s.values() for s in sums]),
                         np.stack([bootstrap(s, np.arange(num_people), 200) for s in sums]), num_people)
        nothing = Measured(("mpjpe",), 0 * model.values, 0 * model.resamples, num_people)
        found = reproduction_effects.compare({"a": 1, "b": -1}, {"a": model, "b": nothing}, "mpjpe", 0.9)
        hits += found["low"] < 7 < found["high"]
    assert 0.86 < hits / num_trials < 0.97


def test_differences_are_paired():
    """A model that is better by a tenth in every pose of every seed is surely better, however much seeds and people vary."""
    skeleton = Skeleton("one", "one", ("pelvis", "neck", "head"), (0, 1, 2), (), 0)
    rng = np.random.default_rng(2)
    people = np.repeat(np.arange(10), 5)
    true = rng.normal((0, 0, 4000), 200, (50, 3, 3))
    errors = [scale * (1 + people[:, None, None]) * rng.normal(0, 20, true.shape) for scale in (1.0, 1.5, 3.0)]
    worse, better = (reproduction_effects.measure_model([true + factor * e for e in errors], true, None, skeleton, people)
                     for factor in (1.0, 0.9))
    found = reproduction_effects.compare({"a": 1, "b": -1}, {"a": better, "b": worse}, "mpjpe", 0.95)
    assert found["by_seed"] == pytest.approx(-0.1 * worse.values[:, 0])
    assert found["estimate"] == pytest.approx(-0.1 * worse.values[:, 0].mean())
    alone = reproduction_effects.compare({"a": 1}, {"a": worse}, "mpjpe", 0.95)
    distances = [metrics.joint_distances(true + e, true).relative.mean(axis=1) for e in errors]
    of_people = np.mean(distances, axis=0).reshape(10, 5).mean(axis=1)
    assert alone["error_of_people"] == pytest.approx(of_people.std(ddof=1) / 10**0.5, rel=0.03)
    assert alone["error_of_seeds"] == pytest.approx(np.mean(distances, axis=1).std(ddof=1) / 3**0.5)
    assert found["error_of_people"] == pytest.approx(0.1 * alone["error_of_people"])
    assert found["error_of_seeds"] == pytest.approx(0.1 * alone["error_of_seeds"])


def test_verdicts():
    verdict = reproduction_effects.verdict
    assert verdict(-3, -1, "mpjpe", True) == "holds" == verdict(1, 3, "cps200", True) == verdict(1, 3, "mpjpe", False)
    assert verdict(1, 3, "mpjpe", True) == "does not hold" == verdict(-3, -1, "cps200", True) == verdict(1, 2, "cps200", False)
    assert verdict(-1, 3, "mpjpe", True) == "not decided" == verdict(math.nan, math.nan, "mpjpe", False)
    assert verdict(-3, -1, "mpjpe", None) == "no direction published"


def test_figures_that_are_differences():
    model = Measured(("pck100", "cps200"), np.array([[50.0, 20.0], [60.0, 40.0]]), np.array([[[5.0, 2.0]], [[6.0, 4.0]]]), 9)
    values, resamples = model.combine("cps200 - pck100")
    assert values.tolist() == [-30, -20] and resamples.tolist() == [[-3], [-2]]
    assert model.combine("cps200")[0].tolist() == [20, 40]


# ------------------------------------------------------------------------------------------------------------ trainings


def test_trainings_are_set_as_their_names_say(tmp_path):
    def config(name):
        arguments = reproduction.command(VARIANTS[name], 3, Sizes(160, 80, 48), tmp_path, tmp_path / "run")
        with end_to_end.command_line(*arguments[2:]):
            plan = train.make_plan()
        assert plan.workdir == tmp_path / "run" and plan.phases == ("initial", "autoencoder", "finetune")
        return plan.config

    configs = {name: config(name) for name in VARIANTS}
    assert {(c.seed, c.crop_side, c.finetune_steps) for c in configs.values()} == {(3, 48, 80)}
    assert {name: c.initial_steps for name, c in configs.items() if c.initial_steps != 160} == {"x2": 320, "x4": 640}
    groups = {name: (c.ghost_batch_size, c.bn_steps(c.initial_steps), c.bn_steps(c.finetune_steps))
              for name, c in configs.items()}
    assert groups == {"default": ("16", 10, 10), "x2": ("16", 10, 10), "x4": ("16", 10, 10), "ghost_16_without": ("16", 0, 0),
                      "ghost_3d_2d": ("3d/2d", 10, 10), "ghost_3d_2d_without": ("3d/2d", 0, 0),
                      "plain": ("none", 10, 10), "plain_without": ("none", 0, 0)}
    assert configs["default"].consistency_modes == ("regularize", "none", "latent", "hybrid")
    assert {c.consistency for name, c in configs.items() if name != "default"} == {"regularize"}


def test_files_of_a_training_are_where_the_study_looks(finished_run, tiny_data_root, tmp_path):
    run, _ = finished_run
    summary = json.loads((run / "summary.json").read_text())
    dataset = PreparedDataset(tiny_data_root / reproduction.TEST_SET)
    truth = read_scored(dataset, 64)
    for model in Variant(consistency=("regularize", "hybrid")).model_names():
        joints3d = read_predictions(run / "evaluation" / f"{model}_{reproduction.TEST_SET}.npz").joints3d
        sums = reproduction_effects.figure_sums(joints3d, truth.joints3d, truth.validity, dataset.skeleton)
        found = dict(zip(sums.names, sums.values(), strict=True))
        assert {name: found[name] for name in summary[model]} == pytest.approx(summary[model], rel=1e-5)
    assert (run / reproduction.REPORT_NAME).is_file()

    for name in ("autoencoder.npz", "pseudo_labels.npz"):
        shutil.copy(run / name, tmp_path)
    reproduction.fit_without_l1(tmp_path, 1)
    with_l1, without = (reproduction_effects.measure_autoencoder([ace.AffineAutoencoder.load(tmp_path / f"{name}.npz")])
                        for name in ("autoencoder", "autoencoder_without_l1"))
    assert with_l1.names == ("zero_weights", "negative_weights")
    assert with_l1.values[0, 0] > without.values[0, 0] and with_l1.values[0, 1] < without.values[0, 1]


@pytest.mark.parametrize("script", [f"open({reproduction.REPORT_NAME!r}, 'w'); raise SystemExit(3)", "pass"])
def test_a_training_that_ends_early_is_no_result(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ChildProcessError, match=r"log\.txt says why; the same command goes on"):
        reproduction.run_training([sys.executable, "-c", f"print('a reason'); {script}"], tmp_path, tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text() == "a reason\n"


@pytest.mark.parametrize(("signum", "is_for_both"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_stopped_study_waits_for_its_training_to_write_a_checkpoint(tmp_path, signum, is_for_both):
    training = ("import pathlib, signal, sys, time\n"
                "def stop(*_): time.sleep(2); pathlib.Path('checkpoint').touch(); sys.exit(0)\n"
                f"signal.signal({signum}, stop); pathlib.Path('started').touch(); time.sleep(60)")
    study = ("import signal, sys; from benchmarks import reproduction as r\n"
             "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a background shell's child would lack
             f"r.command = lambda *_: [sys.executable, '-c', {training!r}]\n"
             "r.main(['--seeds=2', '--output-dir=study'])")
    process = subprocess.Popen([sys.executable, "-c", study], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, env={**os.environ, "PYTHONPATH": str(end_to_end.REPOSITORY)})
    end_to_end.wait_until(lambda: (tmp_path / "started").exists() or process.poll() is not None)
    (os.killpg if is_for_both else os.kill)(process.pid, signum)
    assert "The same command goes on from here" in process.communicate(timeout=60)[1]
    assert (tmp_path / "checkpoint").exists()


# ------------------------------------------------------------------------------------------------------------ the study


@pytest.fixture
def planted(monkeypatch, tiny_data_root):
    """Instead of training, writes models' predictions that are wrong by planted factors. Returns: the names of the runs."""
    dataset = PreparedDataset(tiny_data_root / reproduction.TEST_SET)
    truth = read_scored(dataset, 48)
    done = []

    def run_training(arguments, run, log):
        done.append(run.name)
        seed, name = run.name.split("_", 1)
        rng = np.random.default_rng(int(seed[4:]))
        error = rng.normal(0, 80, truth.joints3d.shape)
        (run / "evaluation").mkdir(parents=True)
        for model in VARIANTS[name].model_names():
            factor = FACTORS.get(name, 1.0) * PHASE_FACTORS.get(model, 0.8)
            np.savez(run / "evaluation" / f"{model}_{reproduction.TEST_SET}.npz", joints3d=truth.joints3d + factor * error)
        if name == "default":
            poses = np.float32(truth.joints3d + error)
            ace.fit_autoencoder(poses, dataset.skeleton, sweeps=3, restarts=1, progress=False).save(run / "autoencoder.npz")
            np.savez(run / "pseudo_labels.npz", joints3d=poses)

    monkeypatch.setattr(reproduction, "run_training", run_training)
    return done


def test_the_study_finds_what_is_planted(planted, tiny_data_root, tmp_path, capsys):
    arguments = [f"--data-root={tiny_data_root}", f"--output-dir={tmp_path / 'study'}"]
    assert reproduction.main([*arguments, "--seeds=2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(planted) == 16 and planted[:2] == ["seed1_default", "seed1_ghost_16_without"]

    lines = {(line["direction"], line["figure"]): line for line in result["directions"]}
    verdicts = {key[0]: line["verdict"] for key, line in lines.items() if key[1] == "mpjpe"}
    assert verdicts["Training 2 times as long helps, initial"] == "holds"
    assert verdicts["Training 4 times as long helps, initial"] == "does not hold"
    assert verdicts["Training 4 instead of 2 times as long helps, finetuned"] == "does not hold"
    assert verdicts["Fine-tuning with consistency helps"] == "holds"
    assert verdicts["It is the consistency that helps: fine-tuning with it against without"] == "not decided"
    assert verdicts["latent against regularize"] == "no direction published"
    assert verdicts["Without the inference-mode steps Ghost BN 16 is worse, finetuned"] == "holds"
    assert verdicts["Without the inference-mode steps Ghost BN 3D/2D is worse, finetuned"] == "not decided"
    assert verdicts["With the inference-mode steps Ghost BN 16 is better than plain BatchNorm"] == "holds"
    assert verdicts["Leaving them out costs Ghost BN 16 more than plain BatchNorm"] == "holds"
    assert lines["Fine-tuning with consistency helps", "mpjpe"]["estimate"] == pytest.approx(
        -0.4 * np.mean(result["models"]["default/initial"]["mpjpe"]), rel=1e-5)
    l1 = lines["The l1 penalty makes the autoencoder's weights sparse and nearly non-negative", "zero_weights"]
    assert l1["error_of_people"] == 0 and l1["estimate"] > 0 and l1["published"] is None
    assert sum(result["verdicts"].values()) == len(result["directions"])
    assert result["num_people"] == 2 and result["num_poses"] == end_to_end.NUM_TEST

    assert reproduction.main([*arguments, "--seeds=3"]) == 0
    assert planted[16:] == [f"seed3_{name}" for name in VARIANTS]
    text = capsys.readouterr().out
    assert "3 seeds" in text and "Training 4 times as long helps, initial\n" in text
    lines = text.splitlines()
    mpjpe = float(next(line for line in lines if line.startswith("default/initial")).split()[1])
    assert float(next(line for line in lines if line.startswith("x4/finetuned")).split()[1]) == pytest.approx(
        1.3 * 0.6 * mpjpe, rel=1e-3)
    words = lines[lines.index("Training 4 times as long helps, initial") + 1].split()
    assert words[:2] == ["MPJPE,", "mm"] and float(words[2]) == pytest.approx(0.3 * mpjpe, rel=1e-3)
    assert words[-7:] == ["does", "not", "hold", "-4.0", "-4.1", "-6.7", "-3.0"]


def test_wrong_options_are_refused(planted, tiny_data_root, tmp_path, capsys):
    arguments = [f"--data-root={tiny_data_root}", f"--output-dir={tmp_path / 'study'}", "--seeds=2"]
    reproduction.train(tmp_path / "study", pathlib.Path(tiny_data_root), 1, Sizes())
    with pytest.raises(SystemExit, match=r"(?s)other settings.*steps: 1200 in the run, 1300 now"):
        reproduction.main([*arguments, "--steps=1300"])
    for argument, message in (("--seeds=1", "2 or more"), ("--confidence=95", "below 1, such as 0.95")):
        with pytest.raises(SystemExit):
            reproduction.main([argument])
        assert message in capsys.readouterr().err


def test_what_failed_is_done_again(planted, monkeypatch, tiny_data_root, tmp_path):
    run_training, failing = reproduction.run_training, ["seed1_plain"]

    def fail_once(arguments, run, log):
        if run.name in failing:
            failing.clear()
            raise ChildProcessError("the power failed")
        run_training(arguments, run, log)

    monkeypatch.setattr(reproduction, "run_training", fail_once)
    arguments = (tmp_path / "study", pathlib.Path(tiny_data_root), 1, Sizes())
    with pytest.raises(ChildProcessError):
        reproduction.train(*arguments)
    reproduction.train(*arguments)
    assert sorted(planted) == sorted(f"seed1_{name}" for name in VARIANTS)
