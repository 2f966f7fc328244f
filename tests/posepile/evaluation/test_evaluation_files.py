import csv
import json

import pytest

from posepile.evaluation.evaluation_files import score_rows, write_scores
from tests.posepile.evaluation.scored_records import h36m_record, model_record, mupots_record


@pytest.fixture(name="rows")
def _rows(tmp_path):
    records = {"h36m": h36m_record(), "mupots": mupots_record(), "mine": model_record()}
    records["mupots"]["metrics"]["cps100"] = float("nan")
    write_scores(tmp_path / "new", records, records)
    assert json.loads((tmp_path / "new" / "scores.json").read_text())["mupots"]["metrics"]["cps100"] is None
    with open(tmp_path / "new" / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_one_number_a_line_with_its_stamp(rows):
    key = [(row["data_set"], row["part"], row["group"], row["label"], row["metric"]) for row in rows]
    assert len(set(key)) == len(key)
    by_key = dict(zip(key, rows, strict=True))
    row = by_key["h36m", "flat", "", "", "mpjpe"]
    assert float(row["value"]) == pytest.approx(3) and float(row["low"]) <= 3 <= float(row["high"])
    assert (row["root"], row["num_poses"], row["annotation"]) == ("pelvis", "6", "metric (D3_Positions)")
    assert row["averaging"] == "all joints of all poses" and row["joints"].startswith("pelvis, right_hip")
    assert float(by_key["h36m", "flat", "activity", "Sitting", "mpjpe"]["value"]) == pytest.approx(4)
    assert by_key["h36m", "flat", "activity", "Sitting", "mpjpe"]["num_poses"] == "3"
    missed = by_key["mupots", "all_annotated/metric", "", "", "pck150"]
    assert float(missed["value"]) == pytest.approx(50) and missed["data"] == "all annotated people"
    assert float(missed["recall"]) == 50
    assert by_key["mupots", "flat", "", "", "cps100"]["value"] == ""  # undefined
    assert float(by_key["mine", "all formats", "joint", "smpl_24/left_hand_smpl", "mpjpe"]["value"]) == pytest.approx(48)
    assert by_key["mine", "all formats", "", "", "inconsistency"]["split"] == "test"


def test_published_numbers_stand_beside(rows):
    published = [row for row in rows if row["group"] == "published"]
    assert {row["data_set"] for row in published} == {"h36m", "mupots"} and len(published) == 2 * 25 * 4
    assert next(float(row["value"]) for row in published if row["data_set"] == "h36m" and row["metric"] == "cps200"
                and row["label"] == "S2: 1.6M steps, finetuned") == 92.2


def test_every_number_of_the_record_is_there():
    record = h36m_record()
    metrics = {row["metric"]: row["value"] for row in score_rows("h36m", record) if row["part"] == "flat" and not row["group"]}
    assert metrics == {**record["metrics"], **record["poses"]}
    labels = {row["label"] for row in score_rows("h36m", record) if row["group"] == "joint"}
    assert labels == set(record["per_joint"])
