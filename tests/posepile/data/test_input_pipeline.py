import dataclasses

import keras
import numpy as np
import pytest

from posepile.data import batches
from posepile.data.batches import BatchPlan
from posepile.data.py_dataset import BatchSequence
from tests.posepile.data.prepared import dotted_example, write_prepared

tf = pytest.importorskip("tensorflow", reason="the tf.data pipeline needs tensorflow")
input_pipeline = pytest.importorskip("posepile.data.input_pipeline")

SEED = 7


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def prepare(name, skeleton, kind, num_examples):
        examples = [dotted_example(rng, skeleton, kind) for _ in range(num_examples)]
        return write_prepared(root, name, skeleton, examples, kind)

    return BatchPlan([(prepare("one", "smpl_24", "3d", 31), 5), (prepare("two", "h36m_17", "3d", 9), 10)],
                     [(prepare("flat", "coco_17", "2d", 14), 2)], crop_side=32)


def assert_equal_batches(actual, expected):
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name].dtype == values.dtype
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


@pytest.mark.parametrize("num_parallel_calls, start_step", [(1, 0), (4, 0), (4, 17)])
def test_batches_are_bitwise_those_of_make_batch(plan, num_parallel_calls, start_step):
    """34 steps: several calls of each queue (of 12, 6 and 32 steps), several epochs."""
    dataset = input_pipeline.training_dataset(plan, SEED, start_step, num_parallel_calls)
    for name, spec in dataset.element_spec.items():
        assert (tuple(spec.shape), spec.dtype) == plan.array_specs()[name]
    for i, batch in enumerate(dataset.take(34).as_numpy_iterator()):
        assert_equal_batches(batch, batches.make_batch(plan, SEED, start_step + i))


def test_plan_without_2d_datasets(plan):
    plan = dataclasses.replace(plan, datasets_2d=[], joint_names_2d=None)
    batch = next(input_pipeline.training_dataset(plan, SEED, 3, 2).as_numpy_iterator())
    assert_equal_batches(batch, batches.make_batch(plan, SEED, 3))


def test_evaluation_dataset_is_the_split_in_order(plan):
    dataset = plan.datasets_3d[0][0]
    batch_sizes, start = [], 0
    for batch in input_pipeline.evaluation_dataset(dataset, "train", 32, batch_size=12).as_numpy_iterator():
        size = len(batch["image"])
        assert_equal_batches(batch, batches.make_evaluation_batch(dataset, "train", range(start, start + size), 32))
        batch_sizes.append(size)
        start += size
    assert batch_sizes == [12, 12, 7]


def test_py_dataset_gives_the_same_batches(plan):
    sequence = BatchSequence(plan, SEED, start_step=17, num_steps=3)
    assert isinstance(sequence, keras.utils.PyDataset) and len(sequence) == 3
    tf_batches = input_pipeline.training_dataset(plan, SEED, 17, 2).as_numpy_iterator()
    for i in range(3):
        assert_equal_batches(sequence[i], next(tf_batches))
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
    pipeline = input_pipeline.training_dataset(BatchPlan([(dataset, 4)], [], 32), SEED, 0, 2)
    with pytest.raises(tf.errors.OpError, match=rf"train-00000-of-00001\.tfrecord at byte {offset}: "
                                                r"the record's checksum does not match its content"):
        next(pipeline.as_numpy_iterator())
