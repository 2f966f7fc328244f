import keras
import numpy as np
import pytest

from posepile.training import checkpoints
from posepile.training.checkpoints import checkpoint_path, list_checkpoints, restore_checkpoint, save_checkpoint


class _Variable:
    """As much of a Keras variable as checkpoints need."""

    def __init__(self, value, path):
        self.value, self.path = np.asarray(value), path

    @property
    def shape(self):
        return self.value.shape

    def __array__(self, dtype=None, copy=None):
        return self.value

    def assign(self, value):
        self.value = np.array(value)


def _state(number):
    return [_Variable(np.full((2, 3), number, np.float32), "kernel"), _Variable(np.int32(number), "iterations")]


def _saved(folder, *steps):
    for step in steps:
        save_checkpoint(folder, "initial", step, _state(step))


def test_everything_comes_back_bit_for_bit(tmp_path):
    def training():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dropout(0.5, seed=3),
                                  keras.layers.BatchNormalization()])
        model.compile(keras.optimizers.AdamW(0.01), "mse", run_eagerly=True)
        model.optimizer.build(model.trainable_variables)
        return model, [*model.variables, *model.optimizer.variables]

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 8, 3)), rng.normal(size=(2, 5, 8, 4))
    model, state = training()
    model.train_on_batch(x[0, 0], y[0, 0])
    save_checkpoint(tmp_path, "initial", 1, state)
    saved = [np.asarray(v).copy() for v in state]
    for i in range(1, 4):
        model.train_on_batch(x[0, i], y[0, i])
    other, other_state = training()
    assert restore_checkpoint(tmp_path, "initial", other_state) == 1
    assert len(saved) > 12  # weights, moments, iterations, the state of dropout's generator, the loss
    assert sum(v.dtype == "uint32" or "seed" in v.path for v in other_state) == 1
    for value, variable in zip(saved, other_state, strict=True):
        np.testing.assert_array_equal(value, np.asarray(variable))
        assert value.dtype == np.asarray(variable).dtype
    for i in range(1, 4):
        other.train_on_batch(x[0, i], y[0, i])
    for ours, theirs in zip(other_state, state, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_nothing_to_restore(tmp_path):
    state = _state(7)
    assert restore_checkpoint(tmp_path / "missing", "initial", state) == 0
    assert restore_checkpoint(tmp_path, "initial", state) == 0
    assert state[1].value == 7


def test_newest_of_its_own_phase(tmp_path):
    _saved(tmp_path, 9, 10)
    save_checkpoint(tmp_path, "finetune", 20, _state(20))
    (tmp_path / "initial-notes.npz").write_bytes(b"not ours")
    state = _state(0)
    assert restore_checkpoint(tmp_path, "initial", state) == 10
    assert state[1].value == 10
    assert restore_checkpoint(tmp_path, "finetune", state) == 20


def test_last_two_are_kept(tmp_path):
    _saved(tmp_path, 2, 4, 6, 8)
    save_checkpoint(tmp_path, "finetune", 1, _state(1))
    assert [step for step, _ in list_checkpoints(tmp_path, "initial")] == [6, 8]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finetune-00000001.npz", "initial-00000006.npz",
                                                                "initial-00000008.npz"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_falls_back_to_the_one_before(tmp_path, share, caplog):
    _saved(tmp_path, 1, 2)
    path = checkpoint_path(tmp_path, "initial", 2)
    content = path.read_bytes()
    path.write_bytes(content[:int(share * len(content))])
    state = _state(0)
    assert restore_checkpoint(tmp_path, "initial", state) == 1
    np.testing.assert_array_equal(state[0].value, np.ones((2, 3)))
    damaged, goes_on = caplog.messages
    assert damaged.startswith(f"checkpoint {path} is damaged (")
    assert goes_on == "initial goes on from the checkpoint before, of step 1"


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    """Every byte of the file, damaged in turn, either does not matter or is found out."""
    _saved(tmp_path, 1, 2)
    path = checkpoint_path(tmp_path, "initial", 2)
    content = path.read_bytes()
    steps = []
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        state = _state(0)
        steps.append(restore_checkpoint(tmp_path, "initial", state))
        assert state[1].value == steps[-1]
        np.testing.assert_array_equal(state[0].value, np.full((2, 3), steps[-1]))
    assert set(steps) == {1, 2}
    assert steps.count(1) > len(content) / 2


def test_all_damaged(tmp_path, caplog):
    _saved(tmp_path, 1, 2)
    for step in (1, 2):
        checkpoint_path(tmp_path, "initial", step).write_bytes(b"")
    assert restore_checkpoint(tmp_path, "initial", _state(0)) == 0
    assert caplog.messages[-1] == f"no checkpoint of initial in {tmp_path} is intact: the phase starts over"


@pytest.mark.parametrize("variables", [
    _state(0)[:1], [*_state(0), _Variable(0, "more")], [_Variable(np.zeros((3, 2)), "kernel"), _state(0)[1]]])
def test_checkpoint_of_another_model_is_refused(tmp_path, variables):
    _saved(tmp_path, 1)
    with pytest.raises(ValueError, match=r"initial-00000001.npz does not fit the model.*--workdir"):
        restore_checkpoint(tmp_path, "initial", variables)


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    _saved(tmp_path, 1)

    def fail(file, **_):
        file.write(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints.np, "savez", fail)
    with pytest.raises(OSError, match="no space"):
        _saved(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["initial-00000001.npz"]
