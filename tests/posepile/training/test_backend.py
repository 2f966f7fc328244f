import dataclasses
import itertools
import pathlib
import threading

import keras
import numpy as np
import pytest

from posepile.data.batches import BatchPlan, make_batch
from posepile.data.queue_statistics import QueueStatistics
from posepile.data.records import PreparedDataset
from posepile.data.tfrecord import CorruptRecordError
from posepile.training import backend
from posepile.training.step_inputs import step_inputs
from tests.posepile import small_model
from tests.posepile.data.prepared import dotted_example, write_prepared


@pytest.fixture(params=[keras.backend.backend(), "another"])
def _any_backend(request, monkeypatch):
    monkeypatch.setattr(backend.keras.backend, "backend", lambda: request.param)


@pytest.mark.usefixtures("_any_backend")
def test_streams_of_all_backends_are_the_same(batch_plan):
    statistics = QueueStatistics(batch_plan)
    stream = backend.batch_stream(batch_plan, 2, 10, statistics)(3)
    batches = list(itertools.islice(stream, 3))
    assert len(batches) == 3
    for step, batch in zip(range(3, 6), batches, strict=True):
        expected = {**make_batch(batch_plan, 2, 10 + step), **step_inputs(batch_plan, 2, 10 + step, step)}
        assert batch.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(np.asarray(batch[key]), values)
    values, _ = statistics.report()
    assert values["data/wait_seconds"] > 0
    assert all(values[f"data/ms_per_crop/{part.dataset.name}"] > 0 for part in batch_plan.parts)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def _flip_a_bit(shard):
    content = bytearray(shard.read_bytes())
    content[200] ^= 1
    shard.write_bytes(content)


@pytest.mark.usefixtures("_any_backend")
@pytest.mark.parametrize("image, damage, error_type, message", [
    (None, _flip_a_bit, CorruptRecordError, r"{shard} at byte 0: the record's checksum .* Delete the shard and run .* prepare"),
    (b"no JPEG", pathlib.Path.touch, CorruptRecordError, r"{shard} at byte 0: the image cannot be decoded"),
    (None, pathlib.Path.unlink, FileNotFoundError, r"{shard}.* prepare")])
def test_bad_data_end_the_stream_with_what_is_wrong(tmp_path, image, damage, error_type, message):
    example = dotted_example(np.random.default_rng(0), small_model.ARMS, "3d")
    example = dataclasses.replace(example, image=image or example.image)
    write_prepared(tmp_path, "bad", small_model.ARMS, [example], "3d")
    shard = tmp_path / "bad" / "train-00000-of-00001.tfrecord"
    damage(shard)
    plan = BatchPlan([(PreparedDataset(tmp_path / "bad"), 2)], [], small_model.CROP_SIDE)
    stream = backend.batch_stream(plan, 1, statistics=QueueStatistics(plan))(0)
    with pytest.raises(error_type, match=message.format(shard=shard)) as caught:
        next(stream)
    assert "\n" not in str(caught.value)


def test_configuration_makes_initial_weights_repeatable():
    before = keras.config.dtype_policy()
    try:
        draws = []
        for seed in (1, 1, 2):
            backend.configure(seed, "mixed_bfloat16")
            layer = keras.layers.Dense(3)
            layer.build((None, 4))
            assert layer.compute_dtype == "bfloat16"
            draws.append(np.asarray(layer.kernel))
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
