"""The order of samples against the permutation cut up by hand."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fr.data import order as order_module
from fr.data.order import Balance, Order, Windows, epoch_permutation
from fr.errors import InputError


@st.composite
def orders(draw: st.DrawFn) -> Order:
    count = draw(st.integers(1, 200))
    return Order(count, draw(st.integers(1, count)), draw(st.integers(0, 2**63 - 1)))


@st.composite
def balanced_orders(draw: st.DrawFn, images: st.SearchStrategy[int]) -> tuple[Order, Balance]:
    each = draw(images)
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=12).filter(lambda sizes: sum(sizes) >= each))
    labels = np.array(draw(st.permutations(np.repeat(np.arange(len(sizes)), sizes).tolist())))
    groups = draw(st.integers(1, min(len(sizes), len(labels) // each)))
    balance = Balance(labels, each)
    return Order(len(labels), groups * each, draw(st.integers(0, 2**63 - 1)), balance), balance


@st.composite
def windowed_orders(draw: st.DrawFn) -> tuple[Order, Windows]:
    """A number without samples, as of a tar file without images, may be among those of the files."""
    file = np.array(draw(st.lists(st.integers(0, 12), min_size=1, max_size=150)))
    windows = Windows(file, draw(st.integers(1, 14)))
    seed = draw(st.integers(0, 2**63 - 1))
    return Order(len(file), draw(st.integers(1, len(file))), seed, windows=windows), windows


def epoch_of(order: Order, epoch: int) -> list[int]:
    first = epoch * order.iterations_per_epoch
    batches = range(first, first + order.iterations_per_epoch)
    return np.concatenate([order.share(batch, 0, 1).indices for batch in batches]).tolist()


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


@settings(max_examples=150, deadline=None)
@given(balanced_orders(st.just(1)), st.integers(0, 3))
def test_a_balanced_epoch_shows_each_identity_as_often_and_its_images_by_turns(
    drawn: tuple[Order, Balance], epoch: int
) -> None:
    order, balance = drawn
    seen = epoch_of(order, epoch)
    identities = balance.labels[seen].tolist()
    assert len(seen) == order.iterations_per_epoch * order.batch_size
    count = int(balance.labels.max()) + 1
    for start in range(0, len(seen), count):
        one_round = identities[start : start + count]
        assert len(set(one_round)) == len(one_round)
    for identity in range(count):
        own = np.flatnonzero(balance.labels == identity).tolist()
        shown = [index for index in seen if balance.labels[index] == identity]
        for start in range(0, len(shown), len(own)):  # all of them, before any comes again
            turn = shown[start : start + len(own)]
            assert len(set(turn)) == len(turn)
            assert set(turn) <= set(own)
        assert shown == (shown[: len(own)] * len(shown))[: len(shown)]


@settings(max_examples=150, deadline=None)
@given(balanced_orders(st.integers(2, 4)), st.integers(0, 3))
def test_a_batch_holds_as_many_images_of_each_of_its_identities(drawn: tuple[Order, Balance], epoch: int) -> None:
    order, balance = drawn
    first = epoch * order.iterations_per_epoch
    image_at: dict[tuple[int, int], int] = {}  # identity and place in its cycle → image
    for iteration in range(first, first + order.iterations_per_epoch):
        groups = order.share(iteration, 0, 1).indices.reshape(-1, balance.images)
        identities = balance.labels[groups]
        assert (identities == identities[:, :1]).all()
        assert len(set(identities[:, 0].tolist())) == len(groups)
        each_round = (int(balance.labels.max()) + 1) // len(groups)  # batches
        shown_before = (iteration - first) // each_round * balance.images
        for identity, group in zip(identities[:, 0].tolist(), groups.tolist(), strict=True):
            count = int((balance.labels == identity).sum())
            assert len(set(group)) == min(balance.images, count)
            for place, image in enumerate(group, start=shown_before):
                assert image_at.setdefault((identity, place % count), image) == image
    assert len(set(image_at.values())) == len(image_at)


@settings(max_examples=100, deadline=None)
@given(balanced_orders(st.integers(1, 4)), st.integers(0, 100), st.data())
def test_parts_of_a_balanced_batch_make_it_up_for_any_number_of_ranks(
    drawn: tuple[Order, Balance], iteration: int, data: st.DataObject
) -> None:
    order, _ = drawn
    world = data.draw(st.sampled_from(divisors(order.batch_size)))
    parts = [order.share(iteration, part, world).indices for part in range(world)]
    np.testing.assert_array_equal(np.concatenate(parts), order.share(iteration, 0, 1).indices)


@settings(max_examples=150, deadline=None)
@given(windowed_orders(), st.integers(0, 3))
def test_an_epoch_of_windows_shows_the_files_of_one_after_those_of_the_other(
    drawn: tuple[Order, Windows], epoch: int
) -> None:
    """By brute force: files in the order of their first sample, cut into windows, hold the samples that stand there."""
    order, windows = drawn
    shown = epoch_of(replace(order, batch_size=1), epoch)
    assert sorted(shown) == list(range(order.count))
    assert epoch_of(order, epoch) == shown[: order.iterations_per_epoch * order.batch_size]
    windows_met: list[set[int]] = [set()]
    for file in windows.file[shown].tolist():
        if file in windows_met[-1]:
            continue
        assert all(file not in window for window in windows_met)
        if len(windows_met[-1]) == windows.files:
            windows_met.append(set())
        windows_met[-1].add(file)
    assert len(windows_met) == -(-len(set(windows.file.tolist())) // windows.files)


@settings(max_examples=100, deadline=None)
@given(windowed_orders(), st.integers(0, 40))
def test_files_from_an_iteration_on_are_those_of_its_window_and_the_next(
    drawn: tuple[Order, Windows], iteration: int
) -> None:
    order, windows = drawn
    files = order.files_from(iteration)
    assert len(files) == len(set(files)) <= 2 * windows.files
    epoch, batch = divmod(iteration, order.iterations_per_epoch)
    every = replace(order, batch_size=1)
    shown = [*epoch_of(every, epoch)[batch * order.batch_size :], *epoch_of(every, epoch + 1)]
    ahead = list(dict.fromkeys(windows.file[shown].tolist()))
    assert ahead[0] in files[: windows.files]
    assert {*ahead[: windows.files]} <= {*files}
    assert set(order.share(iteration, 0, 1).indices.tolist()) == set(shown[: order.batch_size])


def test_a_window_of_all_files_mixes_them_and_windows_differ_by_epoch() -> None:
    file = np.repeat(np.arange(20), 50)
    whole = epoch_of(Order(1_000, 10, 0, windows=Windows(file, 20)), 0)
    # Of a random permutation 50 a half are of each file's 50 images: between 8 and 42 but once in a million.
    assert all(8 < count < 42 for count in np.bincount(file[whole[:500]]).tolist())
    windowed = Order(1_000, 10, 0, windows=Windows(file, 4))
    firsts = [sorted(set(file[epoch_of(windowed, epoch)[:200]].tolist())) for epoch in range(5)]
    assert [len(first) for first in firsts] == [4] * 5
    assert len(set(map(tuple, firsts))) > 1
    with_balance = Order(1_000, 10, 0)
    assert epoch_of(with_balance, 0) == epoch_permutation(1_000, 0, 0).tolist()


def test_identities_left_over_by_whole_batches_are_others_each_round() -> None:
    labels = np.repeat(np.arange(10), 50)
    order = Order(500, 8, seed=0, balance=Balance(labels, 2))  # 4 of 10 a batch: 2 are left over a round
    epochs = [epoch_of(order, epoch) for epoch in range(40)]
    shown = np.bincount(labels[np.concatenate(epochs)])
    # 40 epochs of 62 batches: 1,240 rounds, each identity in 0.8 of them: standard deviation 14 rounds of 2 images.
    assert np.abs(shown - 40 * 62 * 8 / 10).max() < 5 * 28
    # The order of an identity's 50 images differs by epoch: so does its first one, shown in the first round.
    assert len({index for seen in epochs for index in seen[:16:2] if labels[index] == 0}) > 1


def test_more_identities_a_batch_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="--images_per_identity 2 needs 10 identities, and there are 5"):
        Order(100, 20, seed=0, balance=Balance(np.arange(100) % 5, 2))


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


def test_the_next_epoch_is_drawn_from_the_middle_of_an_epoch_on_and_in_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: dict[int, threading.Thread] = {}

    def noted(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
        drawn[epoch] = threading.current_thread()
        return epoch_permutation(count, seed, epoch)

    monkeypatch.setattr(order_module, "epoch_permutation", noted)
    order = Order(40, 4, seed=1)  # ten iterations an epoch
    for iteration in range(5):
        order.share(iteration, 0, 1)
    assert list(drawn) == [0]
    order.share(5, 0, 1)
    order_module._epoch(order, 1).result()
    assert list(drawn) == [0, 1]
    for iteration in range(6, 15):
        expected = epoch_permutation(40, 1, iteration // 10)[iteration % 10 * 4 :][:4]
        np.testing.assert_array_equal(order.share(iteration, 0, 1).indices, expected)
    assert list(drawn) == [0, 1]  # once each
    assert threading.current_thread() not in drawn.values()
