import itertools

import keras
import numpy as np
import pytest

from posepile.data.batches import make_batch
from posepile.training import backend


@pytest.mark.parametrize("name", [keras.backend.backend(), "another"])
def test_streams_of_all_backends_are_the_same(batch_plan, monkeypatch, name):
    monkeypatch.setattr(backend.keras.backend, "backend", lambda: name)
    stream = backend.batch_stream(batch_plan, seed=2, num_steps=6)(3)
    batches = list(itertools.islice(stream, 3))
    assert len(batches) == 3
    for step, batch in zip(range(3, 6), batches, strict=True):
        expected = make_batch(batch_plan, 2, step)
        assert batch.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(np.asarray(batch[key]), values)


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
