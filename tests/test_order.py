"""The order of samples against the permutation cut up by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fr.data.order import Order, epoch_permutation
from fr.errors import InputError


@st.composite
def orders(draw: st.DrawFn) -> Order:
    count = draw(st.integers(1, 200))
    return Order(count, draw(st.integers(1, count)), draw(st.integers(0, 2**63 - 1)))


def divisors(number: int) -> list[int]:
    return [part for part in range(1, number + 1) if number % part == 0]


@settings(max_examples=150, deadline=None)
@given(orders(), st.integers(0, 3), st.data())
def test_an_epoch_shows_exactly_its_batches_and_no_sample_twice(order: Order, epoch: int, data: st.DataObject) -> None:
    parts = data.draw(st.sampled_from(divisors(order.batch_size)))
    first = epoch * order.iterations_per_epoch
    shares = [
        order.share(iteration, part, parts)
        for iteration in range(first, first + order.iterations_per_epoch)
        for part in range(parts)
    ]
    seen = np.concatenate([share.indices for share in shares])
    assert len(seen) == order.iterations_per_epoch * order.batch_size
    assert order.count - len(seen) < order.batch_size
    assert len(set(seen.tolist())) == len(seen)
    assert set(seen.tolist()) <= set(range(order.count))
    assert {share.epoch for share in shares} == {epoch}
    places = [share.first + place for share in shares for place in range(len(share.indices))]
    assert places == list(range(len(seen)))


@settings(max_examples=150, deadline=None)
@given(orders(), st.integers(0, 500), st.data())
def test_parts_in_order_make_the_same_batch_for_any_number_of_ranks(
    order: Order, iteration: int, data: st.DataObject
) -> None:
    world = data.draw(st.sampled_from(divisors(order.batch_size)))
    whole = order.share(iteration, 0, 1)
    shares = [order.share(iteration, rank, world) for rank in range(world)]
    np.testing.assert_array_equal(np.concatenate([share.indices for share in shares]), whole.indices)
    assert [share.first for share in shares] == list(
        range(whole.first, whole.first + order.batch_size, order.batch_size // world)
    )
    of_ranks = [set(share.indices.tolist()) for share in shares]
    assert sum(map(len, of_ranks)) == len(set().union(*of_ranks)) == order.batch_size  # disjoint


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1))
def test_an_epoch_is_a_permutation_of_the_list(count: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_permutation(count, seed, epoch).tolist()) == list(range(count))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 100), st.integers(0, 100))
def test_epochs_and_seeds_differ_in_order(seed: int, epoch: int, other: int) -> None:
    # 100 samples: two independent permutations coincide with a chance of 1/100! ≈ 10⁻¹⁵⁸.
    same = bool((epoch_permutation(100, seed, epoch) == epoch_permutation(100, seed, other)).all())
    assert same == (epoch == other)
    assert (epoch_permutation(100, seed, epoch) != epoch_permutation(100, seed ^ 1, epoch)).any()


def test_every_sample_is_left_out_equally_rarely_over_epochs() -> None:
    order, epochs = Order(10, 8, seed=0), 4_000
    shown = np.zeros(10)
    for epoch in range(epochs):
        np.add.at(shown, order.share(epoch, 0, 1).indices, 1)
    # Binomial with p = 0.8: standard deviation √(4,000 · 0.16) = 25; 5 of them.
    assert np.abs(shown - 0.8 * epochs).max() < 125


@pytest.mark.parametrize("batch_size", [11, 1_000])
def test_a_batch_larger_than_the_list_is_refused(batch_size: int) -> None:
    with pytest.raises(InputError, match=f"--train_batch_size {batch_size} .* 10 images .* choose 10 or less"):
        Order(10, batch_size, seed=0)
    assert Order(10, 10, seed=0).iterations_per_epoch == 1


def test_the_order_of_seed_0_is_the_one_that_earlier_runs_had() -> None:
    # Pinned: a change of NumPy or of the key would silently make resumed runs see other samples.
    assert epoch_permutation(1_000, 0, 0)[:10].tolist() == [469, 639, 542, 443, 742, 550, 458, 177, 842, 66]
    assert epoch_permutation(1_000, 0, 1)[:10].tolist() == [352, 612, 79, 247, 134, 808, 601, 209, 658, 190]
