import json

import pytest

from posepile.evaluation.parts import parts_of
from posepile.evaluation.scoring import json_ready
from tests.posepile.evaluation.scored_records import h36m_record, model_record, mupots_record


def test_parts_of_a_protocol():
    flat, activities = parts_of(h36m_record(confidence=0.9))
    assert (flat.name, activities.name) == ("flat", "mean_of_activities")
    assert flat.metrics["mpjpe"] == pytest.approx(3) and set(flat.groups) == {"joint", "sequence", "activity"}
    low, high = flat.intervals["mpjpe"]
    assert low <= 3 <= high
    assert flat.groups["joint"]["right_wrist"].metrics["mpjpe"] == pytest.approx(51)
    assert flat.groups["joint"]["right_wrist"].intervals["mpjpe"] == pytest.approx([51, 51])  # all sequences are alike
    walking = flat.groups["activity"]["Walking"]
    assert walking.metrics["mpjpe"] == pytest.approx(2) and walking.stamp["num_poses"] == 3
    assert (flat.stamp["num_poses"], activities.stamp["num_poses"]) == (6, 6)
    assert activities.stamp["confidence"] == flat.stamp["confidence"] == 0.9
    assert activities.stamp["averaging"] != flat.stamp["averaging"]


def test_parts_with_variants_and_the_recall_of_sequences():
    parts = {part.name: part for part in parts_of(mupots_record())}
    variants = ("metric", "metric_rescaled", "universal", "universal_rescaled")
    assert list(parts) == ["flat", *(f"matched/{variant}" for variant in variants),
                           *(f"all_annotated/{variant}" for variant in variants)]
    sequences = parts["flat"].groups["sequence"]
    assert {name: part.metrics["recall"] for name, part in sequences.items()} == {"TS1": 100, "TS2": 0}
    assert sequences["TS1"].metrics["mpjpe"] == pytest.approx(1) and "mpjpe" not in sequences["TS2"].metrics
    assert sequences["TS2"].stamp["num_poses"] == 0


def test_parts_of_a_model_come_after_those_of_its_benchmark():
    record = model_record()
    own, = parts_of(record)
    assert own.name == "all formats" and own.stamp["split"] == "test" and own.stamp["num_poses"] == 6
    assert own.metrics["mpjpe"] == pytest.approx(48 / 41)
    assert own.groups["format"]["smpl_24"].metrics["mpjpe"] == pytest.approx(2)
    assert own.groups["format"]["smpl_24"].intervals["mpjpe"] == pytest.approx([2, 2])
    assert own.groups["joint"]["smpl_24/left_hand_smpl"].metrics == {"mpjpe": pytest.approx(48)}
    assert own.metrics["inconsistency"] == record["inconsistency"]["total"]
    assert own.metrics["inconsistency_depth"] == record["inconsistency"]["depth"]
    parts = parts_of({**record, "benchmark": h36m_record()})
    assert [part.name for part in parts] == ["flat", "mean_of_activities", "all formats"]
    assert (parts[0].stamp["split"], parts[0].stamp["boxes"]) == ("test", "of the data set")
    assert parts[0].stamp["root"] == "pelvis" and parts[0].stamp["annotation"].startswith("metric (D3")
    assert parts[0].groups["joint"]["pelvis"].stamp["boxes"] == "of the data set"


@pytest.mark.parametrize("make", [h36m_record, mupots_record, model_record])
def test_records_from_json_have_the_same_parts(make):
    record = make()
    again = parts_of(json.loads(json.dumps(json_ready(record))))
    assert [(part.name, part.metrics["num_poses"]) for part in again] == [
        (part.name, part.metrics["num_poses"]) for part in parts_of(record)]
