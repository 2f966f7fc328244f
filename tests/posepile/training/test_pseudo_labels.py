import dataclasses
import json
import os
import signal
import threading
import tracemalloc

import numpy as np
import pytest

from ace.poses import read_poses
from posepile.data import records
from posepile.data.atomic_files import write_json
from posepile.data.crops import crop_examples
from posepile.data.records import PreparedDataset
from posepile.data.tfrecord import CorruptRecordError
from posepile.geometry.skeleton import skeleton_from_dict
from posepile.training import pseudo_labels
from posepile.training.pseudo_labels import make_pseudo_labels, predict_poses
from posepile.training.stop_signal import Preempted, preemption_raised
from tests.posepile import small_model
from tests.posepile.data.prepared import dotted_example, write_prepared
from tests.posepile.training.test_plausibility import POSE

PART = 4  # images, as the batch size is 1


class Predictor:
    """Predicts POSE moved back by 10 mm per unit of the crop's mean colour.

    Attributes:
        num_predicted: images so far.
        before: is called at every batch with their number.
    """

    skeleton = small_model.MERGED
    batch_size = 1

    class model:
        crop_side = 32
        get_weights = staticmethod(lambda: [np.ones(3)])

    def __init__(self, before=lambda num_predicted: None):
        self.num_predicted, self.before = 0, before

    def predict_crops(self, image, intrinsics):
        self.before(self.num_predicted)
        self.num_predicted += len(image)
        return np.float32(POSE + np.array([0, 0, 10]) * image.mean(axis=(1, 2, 3))[:, None, None])


class PartlyWrongPredictor(Predictor):
    """In darker crops someone is too near, and in them and in brighter crops the arms are too long."""

    def predict_crops(self, image, intrinsics):
        poses = super().predict_crops(image, intrinsics)
        brightness = image.mean(axis=(1, 2, 3))
        is_dark = brightness <= self.bounds[0]
        poses[is_dark | (brightness > self.bounds[1]), 1:3, 0] *= 4
        poses[is_dark, 3, 2] = 100
        return poses


def brightness(dataset):
    return crop_examples(dataset, "train", np.arange(dataset.num_examples("train")), 32)["image"].mean(axis=(1, 2, 3))


@pytest.fixture
def datasets(tmp_path):
    """Two of 10 examples each, in their own folders; the lengths of the arms are known."""
    rng, result = np.random.default_rng(5), []
    for name, skeleton in (("arms", small_model.ARMS), ("legs", small_model.LEGS)):
        dataset = write_prepared(tmp_path, name, skeleton, [dotted_example(rng, skeleton, "3d") for _ in range(10)], "3d")
        bones = {"neck-left_wrist": {"mean": 500.0}, "neck-right_wrist": {"mean": 500.0}} if name == "arms" else {}
        result.append(change_manifest(dataset, bone_lengths_mm=bones))
    return result


def change_manifest(dataset, **entries):
    write_json(dataset.folder / records.MANIFEST_NAME, {**dataset.manifest, **entries})
    return PreparedDataset(dataset.folder)


def label(predictor, datasets, path, max_per_dataset=10, **options):
    """Returns: how many images were predicted."""
    make_pseudo_labels(predictor, datasets, datasets, max_per_dataset, path, **options)
    return predictor.num_predicted


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def stop_at(num_images, stop):
    """For `Predictor.before`."""
    def before(num_predicted):
        if num_predicted == num_images:
            stop()
    return before


def interrupt():
    raise KeyboardInterrupt


def unfinished(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]


# --------------------------------------------------------------------------------------------------------- predictions


def test_predicts_the_evaluation_crops(datasets):
    poses = predict_poses(Predictor(), datasets[0], "train", np.array([3, 8]))
    expected = crop_examples(datasets[0], "train", [3, 8], 32)
    np.testing.assert_allclose(poses[:, 0, 2], 3000 + 10 * expected["image"].mean(axis=(1, 2, 3)), rtol=1e-6)


def test_every_batch_gets_its_intrinsics(datasets):
    class Intrinsics(Predictor):
        batch_size = 3

        def predict_crops(self, image, intrinsics):
            return np.repeat(intrinsics[:, :1], 7, axis=1)

    poses = predict_poses(Intrinsics(), datasets[0], "train", np.arange(10))
    np.testing.assert_array_equal(poses[:, 6], crop_examples(datasets[0], "train", np.arange(10), 32)["intrinsics"][:, 0])


def test_next_crops_are_made_while_the_model_predicts(datasets, monkeypatch):
    made = []
    is_second_made = threading.Event()

    def crop(dataset, split, positions, crop_side, geometry):
        made.append(positions.tolist())
        if len(made) == 2:
            is_second_made.set()
        return crop_examples(dataset, split, positions, crop_side)

    monkeypatch.setattr(pseudo_labels, "crop_examples", crop)
    waited = []
    predictor = Predictor(before=lambda num_predicted: num_predicted or waited.append(is_second_made.wait(20)))
    predict_poses(predictor, datasets[0], "train", np.arange(10))
    assert waited == [True]
    assert sorted(made) == [[i] for i in range(10)]


def test_records_that_cannot_be_used_may_be_left_out(tmp_path, caplog):
    rng = np.random.default_rng(0)
    examples = [dotted_example(rng, small_model.ARMS, "3d") for _ in range(7)]
    for position in (1, 3, 5):
        examples[position] = dataclasses.replace(examples[position], image=b"nothing")
    dataset = write_prepared(tmp_path, "broken", small_model.ARMS, examples, "3d")

    class InBatchesOfTwo(Predictor):
        batch_size = 2

    path = tmp_path / "labels.npz"
    for predictor in (Predictor(), InBatchesOfTwo()):
        with pytest.raises(CorruptRecordError, match=r"at byte .*cannot be decoded"):
            predict_poses(predictor, dataset, "train", np.arange(7))
        with pytest.raises(CorruptRecordError, match=r"at byte .*cannot be decoded"):
            label(predictor, [dataset], path)
        with caplog.at_level("INFO"):
            label(predictor, [dataset], path, skip_bad=True)
        assert "7 images, 3 left out: 3 for a record that cannot be used" in caplog.text
        result = arrays(path)
        np.testing.assert_array_equal(result["positions"], [0, 2, 4, 6])
        assert result["num_left_out"] == 3
        np.testing.assert_array_equal(result["joints3d"], predict_poses(predictor, dataset, "train", np.array([0, 2, 4, 6])))


# ------------------------------------------------------------------------------------------------------ the labels' file


def test_file_of_pseudo_labels(datasets, tmp_path, monkeypatch):
    path = tmp_path / "labels.npz"
    order = np.sort(np.concatenate([brightness(dataset) for dataset in datasets]))
    monkeypatch.setattr(PartlyWrongPredictor, "bounds", (order[0], order[-4]), raising=False)  # 1 too near, 3 too long

    label(PartlyWrongPredictor(), datasets, path)

    result = arrays(path)
    kept = [np.flatnonzero((b > order[0]) & (b <= order[-4])) for b in map(brightness, datasets)]
    assert result["joints3d"].dtype == np.float32 and result["joints3d"].shape == (16, 7, 3)
    np.testing.assert_array_equal(result["positions"], np.concatenate(kept))
    np.testing.assert_array_equal(result["dataset_index"], [0] * len(kept[0]) + [1] * len(kept[1]))
    assert result["dataset_names"].tolist() == ["arms", "legs"]
    assert result["joint_names"].tolist() == list(small_model.MERGED.joint_names)
    assert result["num_left_out"] == 4
    expected = [predict_poses(Predictor(), dataset, "train", positions)
                for dataset, positions in zip(datasets, kept, strict=True)]
    np.testing.assert_array_equal(result["joints3d"], np.concatenate(expected))
    assert not (tmp_path / "labels").exists()
    np.testing.assert_array_equal(read_poses(path, small_model.MERGED)[0], result["joints3d"])  # python -m ace fit --poses=


def test_images_are_evenly_spread(datasets, tmp_path):
    label(Predictor(), datasets, tmp_path / "labels.npz", max_per_dataset=4)
    np.testing.assert_array_equal(arrays(tmp_path / "labels.npz")["positions"], [0, 3, 6, 9] * 2)


def test_nothing_plausible(datasets, tmp_path):
    datasets = [change_manifest(datasets[0], bone_lengths_mm={"neck-left_wrist": {"mean": 0.5}})]  # in metres
    with pytest.raises(ValueError, match=r"none of the 10 predicted poses is plausible.*Train it with more --steps"):
        label(Predictor(), datasets, tmp_path / "labels.npz")
    assert not (tmp_path / "labels.npz").exists()


def test_reasons_are_logged(datasets, tmp_path, monkeypatch, caplog):
    values = np.sort(brightness(datasets[0]))
    monkeypatch.setattr(PartlyWrongPredictor, "bounds", (values[1], values[3]), raising=False)  # 2 too near, 6 too long

    with caplog.at_level("INFO"):
        with pytest.raises(KeyboardInterrupt):
            label(PartlyWrongPredictor(before=stop_at(5, interrupt)), datasets[:1], tmp_path / "labels.npz")
        assert "labels of arms" not in caplog.text
        label(PartlyWrongPredictor(), datasets[:1], tmp_path / "labels.npz")

    assert ("pseudo-labels of arms: 10 images, 8 left out: 2 for a joint nearer than 300 mm; 6 for a bone length; the worst "
            "bone, in 6, is neck-left_wrist of arms, 500 mm on average in arms") in caplog.text
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and warnings[0].startswith("more than half of the pseudo-labels of arms are left out")
    assert "mean length of a bone in a manifest is wrong" in warnings[0]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """40 poses of 9.6 MB together, in parts of 1 MB."""
    skeleton = skeleton_from_dict({"name": "dense", "joints": [f"j{i}" for i in range(20_000)]})
    rng = np.random.default_rng(0)
    dataset = write_prepared(tmp_path, "arms", small_model.ARMS, [dotted_example(rng, small_model.ARMS, "3d")] * 40, "3d")

    class Dense(Predictor):
        def predict_crops(self, image, intrinsics):
            return np.full((len(image), skeleton.num_joints, 3), 1000, np.float32)

    Dense.skeleton = skeleton
    path = tmp_path / "labels.npz"
    tracemalloc.start()
    make_pseudo_labels(Dense(), [dataset], [], 40, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 40 * 20_000 * 12 and peak < 6 * 2**20
    assert arrays(path)["joints3d"].shape == (40, 20_000, 3)


# ------------------------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("num_images", [0, 3, 4, 11, 19])
def test_interrupted_labels_are_the_same_in_the_end(num_images, datasets, tmp_path):
    """Parts: 4 + 4 + 2 images of each data set."""
    paths = [tmp_path / "labels.npz", tmp_path / "again.npz"]
    label(Predictor(), datasets, paths[0])
    with pytest.raises(KeyboardInterrupt):
        label(Predictor(before=stop_at(num_images, interrupt)), datasets, paths[1])
    assert not paths[1].exists()
    num_done = {0: 0, 3: 0, 4: 4, 11: 10, 19: 18}[num_images]

    assert label(Predictor(), datasets, paths[1]) == 20 - num_done

    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not (tmp_path / "again").exists()


def test_preempted(datasets, tmp_path):
    with pytest.raises(Preempted), preemption_raised():
        label(Predictor(before=stop_at(6, lambda: os.kill(os.getpid(), signal.SIGTERM))), datasets, tmp_path / "labels.npz")
    assert [path.name for path in tmp_path.glob("labels/*")] == ["arms-00000.npz"]
    assert unfinished(tmp_path) == []
    assert label(Predictor(), datasets, tmp_path / "labels.npz") == 16


def _cut_file(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def _flip_bit(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"joints3d.npy") + 300] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [
    lambda path: _cut_file(path, 0), lambda path: _cut_file(path, 3), lambda path: _cut_file(path, 200),
    lambda path: _cut_file(path, -1), _flip_bit, lambda path: path.write_bytes(b"no poses"), lambda path: path.unlink()])
def test_torn_part_is_made_anew(damage, datasets, tmp_path):
    paths = [tmp_path / "labels.npz", tmp_path / "again.npz"]
    label(Predictor(), datasets, paths[0])
    with pytest.raises(KeyboardInterrupt):
        label(Predictor(before=stop_at(15, interrupt)), datasets, paths[1])  # 4 of 6 parts
    damage(tmp_path / "again" / "arms-00001.npz")

    assert label(Predictor(), datasets, paths[1]) == 6 + PART

    assert paths[0].read_bytes() == paths[1].read_bytes()


def _other_model(datasets):
    class Other(Predictor):
        class model(Predictor.model):
            get_weights = staticmethod(lambda: [np.array([1, 1, 1 + 1e-15])])
    return Other(), datasets


def _other_crops(datasets):
    class Other(Predictor):
        class model(Predictor.model):
            crop_side = 64
    return Other(), datasets


def _other_bones(datasets):
    return Predictor(), [change_manifest(datasets[0], bone_lengths_mm={"neck-left_wrist": {"mean": 501.0}}), datasets[1]]


def _other_data(datasets):
    return Predictor(), [datasets[0], change_manifest(datasets[1], version="2")]


@pytest.mark.parametrize(("change", "num_stale", "changed"), [
    (_other_model, 14, "model"), (_other_crops, 14, "crop side"), (_other_bones, 14, "bone lengths, another manifest"),
    (_other_data, 4, "manifest")])
def test_parts_made_otherwise_are_not_used(change, num_stale, changed, datasets, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        label(Predictor(before=stop_at(14, interrupt)), datasets, tmp_path / "labels.npz")
    predictor, datasets = change(datasets)

    assert label(predictor, datasets, tmp_path / "labels.npz") == 6 + num_stale

    assert f"were made with another {changed}: they are made anew" in caplog.text
    label(change(datasets)[0], datasets, tmp_path / "undisturbed.npz")
    assert (tmp_path / "labels.npz").read_bytes() == (tmp_path / "undisturbed.npz").read_bytes()


def test_parts_of_fewer_images_are_not_used(datasets, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        label(Predictor(before=stop_at(14, interrupt)), datasets, tmp_path / "labels.npz", max_per_dataset=9)
    assert label(Predictor(), datasets, tmp_path / "labels.npz") == 20
    assert "another number of images" in caplog.text


def test_killed_while_the_parts_are_deleted(datasets, tmp_path, monkeypatch):
    path = tmp_path / "labels.npz"
    with monkeypatch.context() as patch:
        patch.setattr(pseudo_labels.shutil, "rmtree", lambda *_, **__: None)
        label(Predictor(), datasets, path)
    (tmp_path / "labels" / "arms-00001.npz").unlink()
    content = path.read_bytes()

    assert label(Predictor(), datasets, path) == 0

    assert path.read_bytes() == content and not (tmp_path / "labels").exists()
    assert set(json.loads(str(arrays(path)["identity"]))) == {"arms", "legs"}
    assert label(_other_model(datasets)[0], datasets, path) == 20


@pytest.mark.parametrize(("failing", "name"), [(3, "labels/legs-00000.npz"), (6, "labels.npz")])
def test_disk_is_full(failing, name, datasets, tmp_path, monkeypatch):
    path, num_files = tmp_path / "labels.npz", []
    fsync = os.fsync

    def fill_up(descriptor):
        num_files.append(descriptor)
        if len(num_files) > failing:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(records.os, "fsync", fill_up)
        with pytest.raises(OSError, match=f"No space left on device: '.*{name}'"):
            label(Predictor(), datasets, path)
    assert not path.exists() and unfinished(tmp_path) == []
    assert len(list(tmp_path.glob("labels/*"))) == failing
    assert label(Predictor(), datasets, path) == (10 if failing == 3 else 0)
