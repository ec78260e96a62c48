"""Order and steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion_utils.training.sampling import derive_seed, draw_order, split_steps


@given(st.integers(2, 60), st.integers(0, 5), st.booleans())
def test_an_epoch_has_every_image_or_both_classes_equally(count, epoch, balanced):
    rows = np.arange(count) * 2
    targets = (np.arange(count) % 5 == 0).astype(int)
    order = draw_order(rows, targets, balanced=balanced, seed=1, epoch=epoch, total=2 * count)
    assert len(order.rows) == count
    assert len(set(order.keys.tolist())) == count, "a sample that comes twice has two numbers"
    assert (order.keys % (2 * count) == order.rows).all()
    if balanced:
        malignant = np.isin(order.rows, rows[targets == 1]).sum()
        assert malignant == count // 2
    else:
        assert sorted(order.rows) == rows.tolist()


def test_orders_differ_by_seed_and_epoch_only():
    rows, targets = np.arange(50), np.arange(50) % 2

    def rows_of(seed, epoch):
        return draw_order(rows, targets, balanced=False, seed=seed, epoch=epoch, total=50).rows.tolist()

    assert rows_of(1, 1) == rows_of(1, 1)
    assert len({str(rows_of(s, e)) for s in (1, 2) for e in (1, 2)}) == 4
    assert derive_seed("order", 1, 23) != derive_seed("order", 12, 3)


@pytest.mark.fault(
    "training", "a batch of one with BatchNorm, or larger than the data", "batches of two or more, each image once"
)
@given(st.integers(2, 200), st.integers(2, 40), st.integers(1, 5))
def test_steps_cover_all_samples_in_even_batches(count, batch_size, accumulation):
    order = draw_order(np.arange(count), np.arange(count) % 2, balanced=False, seed=0, epoch=0, total=count)
    steps = split_steps(order, batch_size=batch_size, accumulation=accumulation)
    batches = [batch for step in steps for batch in step]
    assert np.concatenate([b.rows for b in batches]).tolist() == order.rows.tolist()
    sizes = [len(b.rows) for b in batches]
    assert max(sizes) <= max(batch_size, 3 if count % 2 else 2) and min(sizes) >= 2, "BatchNorm cannot do with one"
    assert max(sizes) - min(sizes) <= 1
    assert all(len(step) == accumulation for step in steps[:-1])
