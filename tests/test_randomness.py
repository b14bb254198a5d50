"""The table of random numbers: any block of it is what a plain read from the start gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fr.randomness import Purpose, generator, uniforms

SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 2**32 - 1)
PURPOSES = st.sampled_from(list(Purpose))


def table_from_the_start(seed: int, purpose: Purpose, epoch: int, rows: int, columns: int) -> NDArray[np.float64]:
    """One generator read from its first number, row after row, by NumPy's own documented Philox."""
    key = np.array([seed, int(purpose) * 2**32 + epoch], dtype=np.uint64)
    source = np.random.Generator(np.random.Philox(key=key))
    padded = -(-columns // 4) * 4
    return np.array([[source.random() for _ in range(padded)] for _ in range(rows)])[:, :columns]


@settings(max_examples=150, deadline=None)
@given(SEEDS, PURPOSES, EPOCHS, st.integers(0, 30), st.integers(1, 10), st.integers(1, 33))
def test_any_block_of_uniforms_equals_the_table_read_from_the_start(
    seed: int, purpose: Purpose, epoch: int, first: int, rows: int, columns: int
) -> None:
    table = table_from_the_start(seed, purpose, epoch, first + rows, columns)
    block = uniforms(seed, purpose, first, rows, columns, epoch)
    assert block.shape == (rows, columns)
    np.testing.assert_array_equal(block, table[first:])


ADDRESSES = st.tuples(SEEDS, PURPOSES, EPOCHS)


@settings(max_examples=200, deadline=None)
@given(ADDRESSES, ADDRESSES)
def test_different_seed_purpose_or_epoch_give_different_numbers(
    one: tuple[int, Purpose, int], other: tuple[int, Purpose, int]
) -> None:
    (seed, purpose, epoch), (other_seed, other_purpose, other_epoch) = one, other
    numbers = uniforms(seed, purpose, 0, 4, 8, epoch)
    others = uniforms(other_seed, other_purpose, 0, 4, 8, other_epoch)
    # 32 numbers of 53 bits: that two independent tables share one has a chance of about 32² / 2⁵³ < 10⁻¹².
    assert bool(np.isin(numbers, others).any()) == (one == other)


@pytest.mark.parametrize("change", ["seed", "purpose", "epoch"])
def test_each_part_of_the_address_matters_on_its_own(change: str) -> None:
    here: dict[str, int] = {"seed": 5, "purpose": Purpose.ORDER, "epoch": 5}
    there = here | {change: Purpose.HEAD if change == "purpose" else 6}
    one, other = (uniforms(a["seed"], Purpose(a["purpose"]), 3, 4, 8, a["epoch"]) for a in (here, there))
    assert not np.isin(one, other).any()


def test_rows_of_a_table_share_no_numbers() -> None:
    table = uniforms(0, Purpose.AUGMENTATION, 0, 2_000, 6)
    assert np.unique(table).size == table.size  # chance of any collision: 12,000² / 2⁵⁴ < 10⁻⁸


def test_uniforms_are_uniform_on_zero_to_one_in_every_column() -> None:
    rows = 20_000
    table = uniforms(1, Purpose.AUGMENTATION, 7, rows, 5)
    assert table.min() >= 0
    assert table.max() < 1
    # Dvoretzky–Kiefer–Wolfowitz: the empirical distribution strays more than 0.02 with a chance of
    # 2·exp(-2·20,000·0.02²) = 2·10⁻⁷ a column; the seed is fixed, so this passes always or never.
    for column in table.T:
        stray = np.abs(np.sort(column) - (np.arange(rows) + 0.5) / rows).max()
        assert stray < 0.02
    # Neighbouring columns of independent numbers correlate by 1/√rows = 0.007 in standard deviation; 5 of those.
    correlation = np.corrcoef(table.T) - np.eye(5)
    assert np.abs(correlation).max() < 0.036


def test_first_count_skips_four_words_a_count() -> None:
    whole = generator(9, Purpose.HEAD).random(40)
    np.testing.assert_array_equal(generator(9, Purpose.HEAD, first_count=3).random(28), whole[12:])
