"""The order of the data is a function of seed and step, wherever the data lies."""

import jax
import numpy as np
import pytest

from gm_jax.data.feed import batch_rows, make_feed, permutation
from gm_jax.training.parallel import jit_parallel


@pytest.mark.parametrize("size, batch_size", [(10, 4), (7, 7), (5, 12), (3, 1)])
def test_every_epoch_sees_each_row_once_and_batches_run_across_its_end(size, batch_size):
    epochs = 6
    steps = -(-epochs * size // batch_size)
    rows = batch_rows(0, size, batch_size, 0, steps)
    assert rows.shape == (steps, batch_size) and rows.dtype == np.int32
    for epoch in rows.ravel()[: epochs * size].reshape(epochs, size):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def test_any_split_into_calls_gives_the_same_rows():
    whole = batch_rows(3, 10, 4, 0, 20)
    for cuts in ([0, 1, 2, 20], [0, 7, 13, 20], list(range(21))):
        calls = [(start, stop - start) for start, stop in zip(cuts, cuts[1:], strict=False)]
        for start, steps in reversed(calls):  # nor does it matter what was asked before
            np.testing.assert_array_equal(batch_rows(3, 10, 4, start, steps), whole[start : start + steps])


def test_epochs_and_seeds_differ_and_every_row_may_come_anywhere():
    orders = np.stack([permutation(seed, epoch, 50) for seed in range(20) for epoch in range(20)])
    assert len(np.unique(orders, axis=0)) == 400
    places = (orders == 0).sum(0)  # how often row 0 comes at each place: 8 times on average
    assert ((places - 8) ** 2 / 8).sum() < 49 + 5 * np.sqrt(2 * 49)


def test_order_is_the_same_on_every_machine():
    """Pinned: whoever changes the order breaks the resumption of every run."""
    np.testing.assert_array_equal(permutation(0, 0, 8), [0, 2, 1, 5, 4, 3, 6, 7])
    np.testing.assert_array_equal(permutation(1, 2, 8), [4, 2, 0, 6, 1, 5, 7, 3])


@pytest.mark.parametrize("labelled", [True, False])
def test_resident_and_streamed_batches_are_the_same_rows(labelled):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 2, 3, 1), dtype=np.uint8)
    labels = np.arange(10, dtype=np.int32) if labelled else None
    size = images.nbytes + (labels.nbytes if labelled else 0)
    parallel, calls = jit_parallel(), []
    counting = parallel._replace(gather=lambda *a: (calls.append("gather"), parallel.gather(*a))[1])
    feeds = [
        make_feed((images, labels), counting, batch_size=4, seed=5, device_bytes=device_bytes)
        for device_bytes in (size, size - 1, 0)
    ]
    assert calls == []
    for step, steps in [(0, 3), (3, 1), (40, 2)]:
        rows = batch_rows(5, 10, 4, step, steps)
        for feed in feeds:
            got_images, got_labels = feed(step, steps)
            assert isinstance(got_images, jax.Array) and got_images.dtype == np.uint8
            np.testing.assert_array_equal(got_images, images[rows])
            if labelled:
                np.testing.assert_array_equal(got_labels, labels[rows])
            else:
                assert got_labels is None
    assert calls == ["gather"] * 3  # the data set that just fits is resident, the others stream
