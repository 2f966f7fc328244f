"""Tables for a terminal."""

import numpy as np
import pytest

from posepile.evaluation import comparison, metrics, scoring, table
from posepile.geometry.skeleton import Skeleton, merge_skeletons
from tests.posepile.evaluation.scored_records import h36m_record, model_record, mupots_record

MODELS = ("initial", "finetuned", "finetuned_ema", "finetuned_latent", "finetuned_hybrid")


@pytest.fixture(name="merged", scope="module")
def _merged():
    return merge_skeletons([Skeleton(name=name, family=name, joint_names=("pelvis", "knee", "hand"), mirror=(0, 1, 2),
                                     edges=(), root=0) for name in ("smpl_24", "mpi_inf_3dhp_28_with_a_long_name")])


@pytest.fixture(name="poses", scope="module")
def _poses(merged):
    """Truth, and the predictions of five models, each better than the one before."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 300, (40, merged.num_joints, 3)) + np.array([0, 0, 4000])
    error = rng.normal(0, 60, true.shape)
    return true, {name: true + error * (1 - 0.15 * i) for i, name in enumerate(MODELS)}


@pytest.fixture(name="scores", scope="module")
def _scores(merged, poses):
    return {name: scoring.score_merged(pred, poses[0], None, merged) for name, pred in poses[1].items()}


@pytest.fixture(name="baseline", scope="module")
def _baseline(merged, poses):
    true, validity = poses[0], np.ones(poses[0].shape[:2], bool)
    return scoring.mean_pose_baseline(scoring.mean_relative_pose(true, validity, merged), true, validity, merged)


def first(scores, *names):
    return {name: scores[name] for name in names}


def test_two_models_with_the_change_and_its_sign(scores, baseline):
    lines = table.format_scores(first(scores, "initial", "finetuned"), baseline).splitlines()
    assert lines[0].split() == ["pooled", "over", "formats", "mean", "pose", "initial", "finetuned", "change"]
    values = [score["pooled"]["mpjpe"] for score in (baseline, scores["initial"], scores["finetuned"])]
    change = round(values[2], 1) - round(values[1], 1)
    assert lines[2].split() == ["MPJPE,", "mm", *(f"{value:.1f}" for value in values), f"{change:+.1f}", "better"]
    assert lines[6].split() == ["inconsistency,", "mm", "-", *(f"{scores[name]['inconsistency']['total']:.1f}" for name in
                                                               ("initial", "finetuned")), lines[6].split()[-2], "better"]
    worse = table.format_scores(first(scores, "finetuned", "initial")).splitlines()
    assert worse[2].endswith("worse") and "better" not in "".join(worse)
    assert {"smpl_24", "mpi_inf_3dhp_28_with_a_long_name"} <= {line.split("  ")[0] for line in lines}


def test_columns_are_aligned(scores, baseline):
    lines = table.format_scores(first(scores, "initial", "finetuned"), baseline).splitlines()
    end = lines[0].index("initial") + len("initial")
    for line in lines:
        if line and not line.startswith("-") and "," in line:
            assert line[end - 1].isdigit() and line[end] == " ", line


def test_one_model_and_undefined_numbers(merged, poses):
    true, models = poses
    pred = models["initial"].copy()
    pred[0, 0] = np.nan
    lines = table.format_scores({"some_model": scoring.score_merged(pred, true, None, merged)}).splitlines()
    assert lines[0].split() == ["pooled", "over", "formats", "some_model"]
    assert lines[2].split() == ["MPJPE,", "mm", "-"]


def test_five_models_fit_and_the_best_has_a_star(scores, baseline):
    text = table.format_scores(scores, baseline)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split()[3:] == ["mean", "pose", "initial", "finetuned", "finetuned_", "finetuned_", "finetuned_"]
    assert lines[1].split() == ["ema", "latent", "hybrid"]
    values = [f"{scores[name]['pooled']['mpjpe']:.1f}" for name in MODELS]
    assert lines[3].split()[3:] == [*values[:-1], f"{values[-1]}*"]
    assert lines[-1] == "* the best of the models"
    same = table.format_scores(dict.fromkeys(MODELS, scores["initial"]))
    assert "*" not in same.removesuffix(lines[-1])


def test_columns_that_do_not_fit_follow_below(scores):
    many = {f"{name} {i}": score for i in range(4) for name, score in scores.items()}
    lines = table.format_scores(many).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("MPJPE") for line in lines) > 3
    words = " ".join(lines).split()
    assert all(words.count(str(i)) for i in range(4))


@pytest.mark.parametrize("num_models", [2, 5])
def test_differences(merged, poses, num_models):
    true, models = poses
    models = first(models, *MODELS[:num_models])
    activity = np.repeat(["walking", "sitting down"], 20)
    record = comparison.compare_poses(models, true, None, merged, sequence=np.arange(40) // 4, activity=activity)
    text = table.format_differences(record)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    tables = record["differences"]["finetuned"]

    def shown(label, entry):
        """Whether a line shows the values of the first two models, and one the difference."""
        rows = [line[len(label):].split() for line in lines if line.startswith(f"{label} ")]
        difference = f"{entry['difference']:+.2f} [{entry['low']:+6.2f}, {entry['high']:+6.2f}]"
        return (any(row[:2] == [f"{entry['reference']:.2f}", f"{entry['value']:.2f}"] for row in rows)
                and any(difference.split() == [word for word in row if word in difference.split()] for row in rows))

    assert shown("MPJPE, mm", tables["pooled"]["mpjpe"])
    assert shown("CPS-AUC@200, %", tables["pooled"]["cps_auc200"])
    assert shown("inconsistency, mm", tables["inconsistency"]["total"])
    assert shown("PCK@100, %", tables["formats"]["smpl_24"]["pck100"])
    assert shown("knee_smpl_24", tables["per_joint"]["smpl_24"]["knee_smpl_24"])
    assert shown("sitting down", tables["per_activity"]["sitting down"]["mpjpe"])
    assert "95 % interval, from 2000 resamples of 10 sequences" in text


def test_better_and_worse_where_the_interval_leaves_out_zero():
    def lines(low, high, name):
        entry = {"reference": 80.0, "value": 80.0 + (low + high) / 2, "difference": (low + high) / 2, "low": low, "high": high}
        record = {"stamp": {"reference": "a", "confidence": 0.9, "num_resamples": 9, "num_groups": 3, "resampled": "poses"},
                  "differences": {"b": {"pooled": {name: entry}, "formats": {"one": {}}, "per_joint": {}}}}
        return next(line for line in table.format_differences(record).splitlines() if "80.00" in line)

    assert lines(-3.0, -1.0, "mpjpe").endswith("80.00  78.00  -2.00 [ -3.00,  -1.00] better")
    assert lines(1.0, 3.0, "mpjpe").endswith("+2.00 [ +1.00,  +3.00] worse")
    assert lines(1.0, 3.0, "pck100").endswith("[ +1.00,  +3.00] better")
    assert lines(-1.0, 3.0, "cps200").endswith("+1.00 [ -1.00,  +3.00]")
    assert lines(np.nan, np.nan, "mpjpe").split() == ["MPJPE,", "mm", "80.00", "-", "-"]


def numbers(line):
    """The words of a line behind its label, which ends with a unit or stands before two spaces."""
    return line.split("  ", 1)[1].split()


def test_a_record_shows_stamps_values_with_intervals_and_groups():
    record = h36m_record(confidence=0.9)
    text = table.format_metrics(record, "a/b")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert len({line.index("[") for line in lines[5:24]}) == 1  # of all values, from MPJPE to APCK@300
    low, high = record["intervals"]["metrics"]["mpjpe"]
    assert "90 % intervals" in text and f"3.00 [{low:6.2f}, {high:6.2f}]" in text
    stamp = " ".join(lines[:3])
    for entry in ("flat: all poses", "17 joints", "root pelvis", "annotation: metric (D3_Positions)",
                  "averaging: all joints of all poses", "6 poses", "sequences resampled"):
        assert entry in stamp
    assert "mean of activities: all poses; 17 joints" in text
    sitting = next(line for line in lines if line.startswith("Sitting"))
    assert numbers(sitting) == ["4.00", f"{record['per_activity']['Sitting']['pa_mpjpe']:.2f}", "100.00", "100.00", "3"]
    assert next(line for line in lines if line.startswith("S9 002"))  # per sequence


def test_published_rows_stand_under_the_flat_means_only():
    text = table.format_metrics(h36m_record(), "my_run/finetuned")
    lines = text.splitlines()
    own = next(i for i, line in enumerate(lines) if line.startswith("my_run/finetuned"))
    assert numbers(lines[own])[0] == "3.0"
    assert lines[own + 10].startswith("S2: 1.6M steps, finetuned")
    assert numbers(lines[own + 10]) == ["41.1", "31.2", "95.7", "92.2"]
    assert text.count("S2: 400k steps, initial") == 1 and "S4: Normal BN" not in text
    assert text.index("S2: 400k") < text.index("mean of activities")
    assert "S2: 400k" not in table.format_metrics(model_record())


def test_the_unit_of_a_metric_limits_its_values():
    low, high = metrics.value_limits(table.LABELS)
    assert low == 0
    assert dict(zip(table.LABELS, high, strict=True)) == {name: 100 if label.endswith("%") else np.inf
                                                          for name, label in table.LABELS.items()}


def test_variants_stand_beside_each_other():
    text = table.format_metrics(mupots_record())
    assert max(map(len, text.splitlines())) <= 100
    assert "recall 50.00 %" in text and "all annotated: all annotated people" in text
    assert "- universal_rescaled: annotation: universal (univ_annot3); bones of annotated length" in text
    missed = next(line for line in text.splitlines() if line.startswith("TS2"))
    assert numbers(missed) == ["-", "-", "-", "-", "0.00", "0"]


def test_of_many_sequences_the_worst_are_shown_and_long_names_shortened():
    record = h36m_record(num_sequences=30)
    record["per_sequence"]["S9 007"]["mpjpe"] = 1e3
    name = "a_folder_with_a_rather_long_name/and_a_file_of_the_same_kind"
    record["per_sequence"][name] = {**record["per_sequence"].pop("S9 008"), "mpjpe": float("nan")}
    lines = table.format_metrics(record).splitlines()
    first = next(i for i, line in enumerate(lines) if "per sequence" in line) + 2
    assert lines[first].startswith("a_folder_with_a_rat…") and lines[first].split("  ")[0].endswith("ame_kind"[1:])
    assert lines[first + 1].split()[:3] == ["S9", "007", "1000.00"]
    assert "The 24 of 30 with the largest MPJPE." in lines
    assert max(map(len, lines)) <= 100


def test_undefined_numbers_are_dashes_and_counted():
    record = h36m_record()
    record["metrics"].update(mpjpe=float("nan"))
    record["poses"].update(num_undefined=2, num_nonfinite=1, num_unaligned=2, num_empty=4)
    record["intervals"]["metrics"]["mpjpe"] = [float("nan"), float("nan")]
    text = table.format_metrics(record)
    assert ("6 poses; sequences resampled; 2 of them with an undefined metric: 1 with a prediction that is not finite, 2 with "
            "fewer than 3 annotated joints; 4 more without an annotated joint do not count") in " ".join(text.split())
    assert "undefined" not in table.format_metrics(h36m_record())
    assert next(line for line in text.splitlines() if line.startswith("MPJPE, mm")).split() == ["MPJPE,", "mm", "-"]


def test_a_model_shows_formats_and_inconsistency():
    record = model_record()
    text = table.format_metrics(record)
    lines = text.splitlines()
    assert "test split; boxes of the data set" in " ".join(lines[:3])
    assert next(line for line in lines if line.startswith("smpl_24 ")).split()[1] == "2.00"
    total = next(line for line in lines if line.startswith("inconsistency, mm"))
    assert total.split()[2] == f"{record['inconsistency']['total']:.2f}"
