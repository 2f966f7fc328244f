"""Both feeders, tf.data and plain threads, against `batches.make_batch`."""

import dataclasses
import hashlib
import itertools

import keras
import numpy as np
import pytest

from posepile.data import batches
from posepile.data.batches import BatchPlan
from posepile.data.prefetch import prefetched_batches
from posepile.data.py_dataset import BatchSequence
from posepile.data.tfrecord import CorruptRecordError
from tests.posepile.data.prepared import dotted_example, write_prepared

tf = pytest.importorskip("tensorflow", reason="the tf.data pipeline needs tensorflow")
input_pipeline = pytest.importorskip("posepile.data.input_pipeline")

SEED = 7
NUM_STEPS = 50


def queues(*arguments):
    return input_pipeline.training_dataset(*arguments).as_numpy_iterator()


both_feeders = pytest.mark.parametrize("feeder", [queues, prefetched_batches])


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Epochs of 6.2, 0.9, 7 and 3.5 steps; calls of 12, 6, 64 and 16 steps."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def prepare(name, skeleton, kind, num_examples):
        examples = [dotted_example(rng, skeleton, kind) for _ in range(num_examples)]
        return write_prepared(root, name, skeleton, examples, kind)

    return BatchPlan([(prepare("one", "smpl_24", "3d", 31), 5), (prepare("two", "h36m_17", "3d", 9), 10),
                      (prepare("rare", "h36m_17", "3d", 7), 1)],
                     [(prepare("flat", "coco_17", "2d", 14), 4)], crop_side=32)


@pytest.fixture(scope="module")
def expected_batches(plan):
    return [batches.make_batch(plan, SEED, step) for step in range(NUM_STEPS)]


def take(feeder, plan, start, stop, num_threads=None):
    """The batches of the steps from `start` to before `stop`."""
    return list(itertools.islice(feeder(plan, SEED, start, num_threads), stop - start))


def assert_equal_batches(actual, expected):
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name].dtype == values.dtype
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


def union(workers_batches, plan):
    """One batch of all workers' shares: all 3D rows, then all 2D rows."""
    shares = [plan.share(worker, len(workers_batches)) for worker in range(len(workers_batches))]
    batch = {}
    for name in workers_batches[0]:
        values = [of_worker[name] for of_worker in workers_batches]
        if name in ("image", "intrinsics"):
            values = ([v[:share.num_3d] for v, share in zip(values, shares, strict=True)]
                      + [v[share.num_3d:] for v, share in zip(values, shares, strict=True)])
        batch[name] = np.concatenate(values)
    return batch


def digest(batch):
    return hashlib.sha256(b"".join(name.encode() + batch[name].tobytes() for name in sorted(batch))).hexdigest()


def test_static_shapes(plan):
    for name, spec in input_pipeline.training_dataset(plan, SEED).element_spec.items():
        assert (tuple(spec.shape), spec.dtype) == plan.array_specs()[name]


@both_feeders
@pytest.mark.parametrize("stops, num_threads, num_workers", [
    ([NUM_STEPS], 1, 1), ([NUM_STEPS], 4, 1), ([NUM_STEPS], 2, 2),
    ([6, 7, 20, NUM_STEPS], 4, 1),  # interrupted before and after an epoch of `one` ends, and inside of a call
    ([33, NUM_STEPS], 2, 2)])
def test_any_run_gives_the_same_50_batches(plan, expected_batches, feeder, stops, num_threads, num_workers):
    digests = []
    for stop in stops:
        streams = [take(feeder, plan.share(worker, num_workers), len(digests), stop, num_threads)
                   for worker in range(num_workers)]
        digests += [digest(union(of_step, plan)) for of_step in zip(*streams, strict=True)]
    assert len(set(digests)) == NUM_STEPS
    assert digests == [digest(batch) for batch in expected_batches]


@both_feeders
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_make_their_own_rows_of_the_batch(plan, expected_batches, feeder, num_workers):
    """`rare` has 1 example per batch: one worker makes it, the others have no queue for it."""
    shares = [plan.share(worker, num_workers) for worker in range(num_workers)]
    assert sum(part.dataset.name == "rare" for share in shares for part in share.parts) == 1
    streams = [take(feeder, share, 5, 8) for share in shares]
    for step, of_workers in enumerate(zip(*streams, strict=True), start=5):
        for batch in of_workers:
            assert len(batch["image"]) == 20 // num_workers and len(batch["joints2d"]) == 4 // num_workers
        assert_equal_batches(union(of_workers, plan), expected_batches[step])


@both_feeders
def test_plan_without_2d_datasets(plan, feeder):
    plan = dataclasses.replace(plan, datasets_2d=[], joint_names_2d=None)
    batch, = take(feeder, plan, 3, 4)
    assert batch["joints2d"].shape == (0, 0, 2)
    assert_equal_batches(batch, batches.make_batch(plan, SEED, 3))


def test_py_dataset_gives_the_same_batches(plan, expected_batches):
    sequence = BatchSequence(plan, SEED, start_step=17, num_steps=3)
    assert isinstance(sequence, keras.utils.PyDataset) and len(sequence) == 3
    for i in range(3):
        assert_equal_batches(sequence[i], expected_batches[17 + i])
    with pytest.raises(IndexError, match="batch 3 of 3"):
        sequence[3]


def test_corrupt_record_stops_the_queue_with_file_and_offset(tmp_path):
    rng = np.random.default_rng(1)
    examples = [dotted_example(rng, "h36m_17", "3d") for _ in range(4)]
    dataset = write_prepared(tmp_path, "broken", "h36m_17", examples, "3d")
    _, offset, num_bytes = dataset.index("train")[2].tolist()
    shard = tmp_path / "broken" / "train-00000-of-00001.tfrecord"
    content = bytearray(shard.read_bytes())
    content[offset + num_bytes // 2] ^= 1
    shard.write_bytes(content)
    errors = []
    pipeline = input_pipeline.training_dataset(BatchPlan([(dataset, 4)], [], 32), SEED, 0, 2, on_error=errors.append)
    message = rf"train-00000-of-00001\.tfrecord at byte {offset}: the record's checksum does not match its content"
    with pytest.raises(tf.errors.OpError, match=message):
        next(pipeline.as_numpy_iterator())
    with pytest.raises(CorruptRecordError, match=message):
        raise errors[0]
