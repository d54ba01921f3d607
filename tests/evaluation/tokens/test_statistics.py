"""Statistics of codes, on data whose numbers are known."""

import collections

import numpy as np
import pytest

from imgen.errors import UserError
from imgen.evaluation.tokens import statistics as token_stats
from imgen.evaluation.tokens import zipf
from imgen.evaluation.tokens.report import analyse
from imgen.evaluation.tokens.scans import SCANS, scan_order
from imgen.latents import LatentSpec


def test_zipf_fits_find_an_exact_power_law():
    counts = np.round(1e9 * np.arange(1, 301) ** -1.3).astype(np.int64)
    ols, mle = zipf.zipf_ols(counts), zipf.zipf_mle(counts)
    assert ols["zipf_ols_alpha"] == pytest.approx(1.3, abs=1e-4)
    assert ols["zipf_ols_r2"] == pytest.approx(1, abs=1e-6)
    assert mle["zipf_mle_alpha"] == pytest.approx(1.3, abs=1e-6)
    assert mle["zipf_mle_kl_bits"] == pytest.approx(0, abs=1e-9)
    flat = zipf.zipf_mle(np.full(50, 7))
    assert flat["zipf_mle_alpha"] == pytest.approx(0, abs=1e-9)


def test_yule_simon_and_heaps_find_what_made_the_data():
    rng = np.random.default_rng(0)
    # A Yule-Simon variable is geometric with success exp(-w), w exponential of rate rho.
    counts = rng.geometric(np.exp(-rng.exponential(1 / 1.7, 20_000)))
    assert zipf.yule_simon(counts)["yule_simon_rho"] == pytest.approx(1.7, rel=0.05)
    assert zipf.yule_simon(np.ones(5, np.int64))["yule_simon_rho"] == np.inf
    tokens = np.arange(1, 20_001)
    types = np.floor(3 * tokens**0.5).clip(max=tokens)
    is_new = np.diff(types, prepend=0) > 0
    assert zipf.heaps(is_new)["heaps_beta"] == pytest.approx(0.5, abs=0.1)


def test_benford_of_powers_of_two():
    counts = 2 ** np.arange(60)
    found = zipf.benford(counts)
    assert found["benford_digits"].sum() == pytest.approx(1)
    assert found["benford_mad"] < 0.02 < zipf.benford(np.arange(100, 1000))["benford_mad"]
    assert zipf.benford(np.full(10, 95))["benford_digits"][8] == 1


def test_ngrams_are_counted_within_images_and_whatever_the_vocabulary():
    rng = np.random.default_rng(0)
    for codes in (
        rng.integers(0, 3, (5, 7)),
        rng.choice(rng.integers(0, 2**62, 3), (5, 7)),
        rng.integers(-3, 0, (5, 7)),
    ):
        for n in (1, 2, 3, 7):
            runs = collections.Counter(
                tuple(row[i : i + n]) for row in codes.tolist() for i in range(7 - n + 1)
            )
            found = token_stats.sorted_counts(token_stats.ngrams(codes, n))
            assert found.tolist() == sorted(runs.values(), reverse=True)


def test_ngrams_of_very_many_codes_do_not_overflow():
    codes = np.arange(60_000).reshape(2, -1)
    codes[1, 5:25] = codes[0, 5:25]
    found = token_stats.sorted_counts(token_stats.ngrams(codes, 8))
    assert (found == 2).sum() == 13 and found.sum() == 2 * (30_000 - 7)


def test_huffman_is_the_entropy_for_halves_and_within_a_bit_of_it_otherwise():
    assert token_stats.huffman_bits(np.array([8, 4, 2, 1, 1])) == 1.875
    assert token_stats.huffman_bits(np.array([9])) == 1
    counts = np.random.default_rng(0).integers(1, 1000, 77)
    found = token_stats.compression(np.sort(counts)[::-1], 128)
    assert 0 <= found["huffman_redundancy_bits"] < 1
    assert found["huffman_saving_vs_vocab"] == 1 - found["huffman_bits"] / 7


def test_a_markov_source_and_its_shuffled_control():
    rng = np.random.default_rng(0)
    stay = rng.random((3000, 64)) < 0.9
    codes = np.cumsum(~stay, axis=1) % 2
    rate = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    found = token_stats.in_sequence(codes)
    assert found["cond_entropy_bits"] == pytest.approx(rate, abs=0.01)
    assert found["mutual_information_bits"] == pytest.approx(1 - rate, abs=0.01)
    mixed = token_stats.shuffled(codes, 0)
    assert np.array_equal(np.bincount(mixed.reshape(-1)), np.bincount(codes.reshape(-1)))
    assert token_stats.in_sequence(mixed)["mutual_information_bits"] < 1e-3


def test_growth_of_the_vocabulary_by_hand():
    codes = np.array([[5, 5, 2], [2, 5, 7], [9, 1, 9], [1, 1, 1]])
    found = token_stats.innovation(codes)
    assert found["new_per_image"].tolist() == [2, 1, 2, 0]
    assert found["distinct_after_image"].tolist() == [2, 3, 5, 5]
    assert token_stats.images_until(found["distinct_after_image"], 0.5) == 2
    assert token_stats.images_until(found["distinct_after_image"], 1.0) == 3


def test_codes_that_name_segments_agree_and_permuted_labels_do_not():
    rng = np.random.default_rng(0)
    segments = rng.integers(0, 6, (200, 16))
    found = token_stats.granularity(10 * segments + 3, segments)
    assert found["gran_purity"] == found["gran_inverse_purity"] == 1
    assert found["gran_nmi"] == pytest.approx(1)
    parts = 2 * segments + rng.integers(0, 2, segments.shape)  # finer codes stay pure
    finer = token_stats.granularity(parts, segments)
    assert finer["gran_purity"] == 1 and finer["gran_inverse_purity"] < 0.6 < finer["gran_nmi"] < 1
    spec = LatentSpec("index", (4, 4), 12)
    result, _ = analyse(parts.reshape(-1, 4, 4), spec, scan="zigzag", segments={"a": segments})
    assert result["granularity"]["a"]["gran_nmi"] == pytest.approx(finer["gran_nmi"])
    assert result["granularity"]["a"]["permuted"]["gran_nmi"] < 0.02


def test_bits_that_copy_one_another_are_far_from_independent():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (50, 40, 3)).astype(np.uint8)
    doubled = np.concatenate([bits, 1 - bits], axis=-1)
    found = token_stats.bit_statistics(doubled)
    assert found["total_correlation_bits"] == pytest.approx(3, abs=0.02)
    assert found["mean_abs_bit_correlation"] == pytest.approx(3 / 15, abs=0.03)
    apart = token_stats.bit_statistics(token_stats.shuffled_bits(doubled, 0))
    assert apart["total_correlation_bits"] < 0.1
    np.testing.assert_array_equal(apart["bit_mean"], found["bit_mean"])
    constant = token_stats.bit_statistics(np.ones((9, 4), np.uint8))
    assert constant["sum_bit_entropy"] == constant["mean_abs_bit_correlation"] == 0


@pytest.mark.parametrize("width", [5, 62, 70])
def test_whole_codes_tell_all_codes_apart(width):
    bits = np.random.default_rng(0).integers(0, 2, (6, 20, width))
    bits[3] = bits[0]
    codes = token_stats.whole_codes(bits)
    assert codes.shape == (6, 20) and codes.dtype == np.int64 and codes.min() >= 0
    rows = {tuple(row) for row in bits.reshape(-1, width).tolist()}
    assert len(np.unique(codes)) == len(rows)
    assert np.array_equal(codes[3], codes[0])
    if width <= 62:
        assert codes[0, 0] == int("".join(map(str, bits[0, 0])), 2)


def test_scans_visit_every_cell_once_and_hilbert_steps_to_a_neighbour():
    for name in SCANS:
        for grid in ((4, 4), (3, 5), (1, 6)):
            assert sorted(scan_order(name, grid)) == list(range(grid[0] * grid[1]))
    y, x = np.divmod(scan_order("hilbert", (8, 8)), 8)
    assert (np.abs(np.diff(y)) + np.abs(np.diff(x)) == 1).all()
    assert scan_order("col", (2, 3)).tolist() == [0, 3, 1, 4, 2, 5]
    assert scan_order("zigzag", (3, 3)).tolist() in (
        [0, 1, 3, 6, 4, 2, 5, 7, 8],
        [0, 3, 1, 2, 4, 6, 7, 5, 8],
    )
    assert scan_order("row", (4, 2, 2)).tolist() == list(range(16))
    with pytest.raises(UserError, match="two axes"):
        scan_order("hilbert", (16,))


def test_a_scan_changes_pairs_but_no_single_code():
    codes = np.broadcast_to(np.arange(4)[:, None], (30, 4, 4))  # every row holds one code
    row, _ = analyse(codes, LatentSpec("index", (4, 4), 4))
    col, _ = analyse(codes, LatentSpec("index", (4, 4), 4), scan="col")
    assert row["codes"]["entropy_bits_1"] == col["codes"]["entropy_bits_1"] == 2
    assert row["codes"]["cond_entropy_bits"] > 0.5
    assert col["codes"]["cond_entropy_bits"] == pytest.approx(0, abs=1e-9)
    for found in (row, col):
        assert found["neighbours"]["right"]["cond_entropy_bits"] == pytest.approx(0, abs=1e-9)
        assert found["neighbours"]["right"]["mutual_information_bits"] == pytest.approx(2)
        assert found["neighbours"]["shuffled"]["right"]["mutual_information_bits"] < 0.1


@pytest.mark.filterwarnings("error")
def test_data_of_one_code_or_one_position_are_no_trouble():
    for spec, shape in (
        (LatentSpec("index", (2, 2), 1), (3, 2, 2)),
        (LatentSpec("index", (1,), 9), (1, 1)),
        (LatentSpec("index", (2, 1), 9), (3, 2, 1)),
        (LatentSpec("bits", (2,), 1), (3, 2, 1)),
    ):
        result, curves = analyse(np.zeros(shape, np.int32), spec)
        assert result["codes"]["entropy_bits_1"] == 0
        assert result["codes"]["distinct_1"] == 1 == curves["counts"]["1"].size
        assert np.isnan(result["codes"]["zipf_ols_alpha_1"])
