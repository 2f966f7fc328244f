import numpy as np
import pytest

from posepile.data.batches import make_batch
from posepile.training.step_inputs import block_rows, blocks, dataset_names, in_blocks, step_inputs


def test_rows_of_blocks_by_hand():
    np.testing.assert_array_equal(block_rows(4, 2, 2), [[0, 1, 4], [2, 3, 5]])
    np.testing.assert_array_equal(block_rows(3, 0, 3), [[0], [1], [2]])
    with pytest.raises(ValueError, match="4 examples with 3D labels and 3 with 2D labels cannot be shared equally by 2"):
        block_rows(4, 3, 2)


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_see_their_rows_of_what_one_would_see(batch_plan, num_workers):
    whole = step_inputs(batch_plan, 7, 20, 3)
    assert whole["step"] == 3
    assert whole["mix"].min() >= 0 and whole["mix"].max() < 1 and len(set(whole["mix"].tolist())) == 12
    shares = [step_inputs(batch_plan.share(worker, num_workers), 7, 20, 3) for worker in range(num_workers)]
    for name in ("mix", "dataset"):
        expected = [whole[name][rows] for rows in block_rows(8, 4, num_workers)]
        np.testing.assert_array_equal([share[name] for share in shares], expected)


def test_inputs_depend_on_seed_and_step_alone(batch_plan):
    first = step_inputs(batch_plan, 7, 20, 3)["mix"]
    np.testing.assert_array_equal(step_inputs(batch_plan, 7, 20, 0)["mix"], first)
    assert (step_inputs(batch_plan, 7, 21, 3)["mix"] != first).all()
    assert (step_inputs(batch_plan, 8, 20, 3)["mix"] != first).all()


def test_rows_are_told_apart_by_data_set(batch_plan):
    assert dataset_names(batch_plan) == ["arms", "legs", "photos"]
    dataset = step_inputs(batch_plan, 1, 0, 0)["dataset"]
    for part in batch_plan.parts:
        assert (dataset[part.rows] == dataset_names(batch_plan).index(part.dataset.name)).all()
    assert np.bincount(dataset).tolist() == [4, 4, 4]


def test_blocks_are_the_batches_of_workers(batch_plan):
    """Cutting a batch into blocks gives what as many workers would have made, each for itself."""
    batch = {**make_batch(batch_plan, 1, 5), **step_inputs(batch_plan, 1, 5, 5)}
    for worker, block in enumerate(blocks(batch, 2)):
        share = batch_plan.share(worker, 2)
        expected = {**make_batch(share, 1, 5), **step_inputs(share, 1, 5, 5)}
        assert block.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(block[name], values, err_msg=name)
    ordered = in_blocks(batch, 2)
    np.testing.assert_array_equal(ordered["image"], batch["image"][block_rows(8, 4, 2).ravel()])
    np.testing.assert_array_equal(ordered["joints2d"], batch["joints2d"])
    assert [block.keys() for block in blocks(batch, 1)] == [batch.keys()]
