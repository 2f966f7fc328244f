import pytest

from posepile.evaluation.primary_error import format_mean_primary_error, mean_primary_error, parse_primaries
from tests.posepile.evaluation.scored_records import h36m_record, model_record, mupots_record


def test_default_and_chosen_metrics():
    assert parse_primaries([], ["h36m", "3dpw"]) == {"h36m": "mpjpe", "3dpw": "mpjpe"}
    assert parse_primaries(["3dpw:pa_mpjpe"], ["h36m", "3dpw"]) == {"h36m": "mpjpe", "3dpw": "pa_mpjpe"}


@pytest.mark.parametrize(("text", "expected"), [
    ("3dpw", "3dpw is not NAME:METRIC, such as h36m:pa_mpjpe"),
    ("mupots:mpjpe", "mupots is not evaluated; what is: h36m, 3dpw"),
    ("3dpw:mpjp", "unknown metric mpjp; known ones: mpjpe, pa_mpjpe, n_mpjpe, a_mpjpe, pck50"),
    ("3dpw:num_poses", "unknown metric num_poses"), ("3dpw:pck100", "h36m:mpjpe in mm, 3dpw:pck100 in %")])
def test_bad_choices_are_refused_with_the_valid_ones(text, expected):
    with pytest.raises(ValueError) as error:
        parse_primaries([text], ["h36m", "3dpw"])
    assert expected in str(error.value)


def test_mean_over_benchmarks_by_hand():
    scores = {"mine": model_record(), "h36m": {**model_record(), "benchmark": h36m_record()}, "mupots": mupots_record()}
    mean = mean_primary_error(scores, dict.fromkeys(scores, "mpjpe"))
    assert mean["of"]["h36m"] == {"metric": "mpjpe", "value": pytest.approx(3)}  # of the benchmark, not of all formats
    assert mean["value"] == pytest.approx((48 / 41 + 3 + 1) / 3) and mean["unit"] == "mm"
    assert format_mean_primary_error(mean) == "Mean primary error: 1.7 mm (mine MPJPE 1.2, h36m MPJPE 3.0, mupots MPJPE 1.0)"


def test_one_undefined_number_leaves_the_mean_undefined():
    record = h36m_record()
    record["metrics"]["mpjpe"] = float("nan")
    mean = mean_primary_error({"h36m": record, "mupots": mupots_record()}, {"h36m": "mpjpe", "mupots": "mpjpe"})
    assert format_mean_primary_error(mean) == "Mean primary error: nan mm (h36m MPJPE nan, mupots MPJPE 1.0)"
