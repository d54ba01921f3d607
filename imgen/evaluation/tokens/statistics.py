"""Statistics of a tokenizer's codes, each a function of an integer array of codes [images, length].

Plain numpy on the host, float64; entropies in bits. A row is one image's codes in the order in which they
are read; runs of n codes (n-grams) never cross images. Sample size is part of every number of n >= 2 codes
in a row: read it beside `tokens_n`, and beside the same number of shuffled codes (`shuffled`).

The programme is that of "Analyzing The Language of Visual Tokens" (arXiv 2411.05001) with the measures of
ELM's analysis; the definitions are ours.
"""

import heapq
import math

import numpy as np

from imgen.evaluation.tokens import baselines as histograms
from imgen.evaluation.tokens import zipf

LARGEST = 2**62


def whole_codes(bits: np.ndarray) -> np.ndarray:
    """Bits [..., D] -> one integer a position, int64 [...]: the first bit is the most significant.

    Codes of more than 62 bits are numbered in their order instead.
    """
    width = bits.shape[-1]
    if width <= 62:
        codes = np.zeros(bits.shape[:-1], np.int64)
        for place in range(width):
            codes = 2 * codes + bits[..., place]
        return codes
    rows = np.packbits(bits.reshape(-1, width).astype(np.uint8), axis=-1)
    _, ids = np.unique(rows.view(f"V{rows.shape[-1]}"), return_inverse=True)
    return ids.reshape(bits.shape[:-1])


def ngrams(codes: np.ndarray, n: int) -> np.ndarray:
    """A number for each run of n codes, equal for equal runs: [N, L] -> int64 [N, L - n + 1].

    Codes are numbered by those that occur, so that any vocabulary will do.
    """
    used, ids = np.unique(codes, return_inverse=True)
    ids = ids.reshape(codes.shape)
    length = codes.shape[1] - n + 1
    keys, largest = ids[:, :length], len(used)
    for shift in range(1, n):
        if largest * len(used) > LARGEST:
            found, keys = np.unique(keys, return_inverse=True)
            keys, largest = keys.reshape(-1, length), len(found)
        keys = keys * len(used) + ids[:, shift : shift + length]
        largest *= len(used)
    return keys


def sorted_counts(values: np.ndarray) -> np.ndarray:
    """How often each value that occurs does, int64 [types], from the largest."""
    return np.sort(np.unique(values, return_counts=True)[1])[::-1]


def entropy_bits(counts: np.ndarray) -> float:
    return histograms.entropy(counts) / np.log(2)


def frequencies(counts: np.ndarray, n: int, vocabulary: int) -> dict[str, float]:
    """Of the n-grams with these counts (from the largest), over a vocabulary of so many codes.

    tokens: sample size. kl_uniform_bits: n log2 V - entropy. hapax_fraction: share of the types that
    occur once. See `zipf` for the laws.
    """
    entropy = entropy_bits(counts)
    return {
        "tokens": int(counts.sum()),
        "distinct": len(counts),
        "hapax_fraction": float(np.mean(counts == 1)),
        "entropy_bits": entropy,
        "kl_uniform_bits": n * math.log2(vocabulary) - entropy,
        **zipf.zipf_ols(counts),
        **zipf.zipf_mle(counts),
        **zipf.lognormal(counts),
    }


def usage(counts: np.ndarray, vocabulary: int) -> dict[str, float]:
    """usage: share of the vocabulary that occurs. perplexity: 2^entropy."""
    entropy = entropy_bits(counts)
    return {
        "usage": len(counts) / vocabulary,
        "perplexity": 2.0**entropy,
        "entropy_efficiency": entropy / math.log2(vocabulary) if vocabulary > 1 else np.nan,
    }


def pair_information(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Of pairs of codes: entropy of the second given the first, and their mutual information."""
    if not first.size:
        return {"pairs": 0, "cond_entropy_bits": np.nan, "mutual_information_bits": np.nan}
    pairs = np.stack([first.reshape(-1), second.reshape(-1)], axis=-1)
    alone = [entropy_bits(sorted_counts(side)) for side in (first, second)]
    both = entropy_bits(sorted_counts(ngrams(pairs, 2)))
    return {
        "pairs": len(pairs),
        "cond_entropy_bits": both - alone[0],
        "mutual_information_bits": sum(alone) - both,
    }


def huffman_bits(counts: np.ndarray) -> float:
    """Mean length of a Huffman code of these counts; 1 bit where there is one symbol only."""
    if len(counts) == 1:
        return 1.0
    heap, total = counts.tolist(), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heap[0]
        heapq.heapreplace(heap, merged)
        total += merged
    return total / int(counts.sum())


def compression(counts: np.ndarray, vocabulary: int) -> dict[str, float]:
    """Huffman code of the single codes against fixed lengths for the vocabulary and for the used codes."""
    bits = huffman_bits(counts)

    def saving(symbols: int) -> float:
        fixed = (symbols - 1).bit_length()  # ceil(log2)
        return 1.0 - bits / fixed if fixed else np.nan

    return {
        "huffman_bits": bits,
        "huffman_saving_vs_vocab": saving(vocabulary),
        "huffman_saving_vs_used": saving(len(counts)),
        "huffman_redundancy_bits": bits - entropy_bits(counts),
    }


def first_times(codes: np.ndarray) -> np.ndarray:
    """Whether a token is the first of its type, image after image: [N, L] -> bool [N * L]."""
    is_new = np.zeros(codes.size, bool)
    is_new[np.unique(codes, return_index=True)[1]] = True
    return is_new


def innovation(codes: np.ndarray) -> dict[str, np.ndarray]:
    """Types seen up to each image and new with it, in the order given: int64 [N] each."""
    new = first_times(codes).reshape(codes.shape).sum(axis=1)
    return {"new_per_image": new, "distinct_after_image": np.cumsum(new)}


def images_until(distinct_after_image: np.ndarray, share: float) -> int:
    """Images after which so large a share of all types that occur has been seen."""
    return int(np.searchsorted(distinct_after_image, share * distinct_after_image[-1]) + 1)


def granularity(codes: np.ndarray, segments: np.ndarray) -> dict[str, float]:
    """How well codes and segment labels [N, L] name the same things.

    gran_purity: share of the patches whose segment is the commonest of their code.
    gran_inverse_purity: whose code is the commonest of their segment. gran_mi_bits: mutual information.
    gran_nmi: that over the geometric mean of both entropies.
    """
    used, code = np.unique(codes, return_inverse=True)
    labels, segment = np.unique(segments, return_inverse=True)
    code, segment = code.reshape(-1), segment.reshape(-1)
    joint, counts = np.unique(code * len(labels) + segment, return_counts=True)
    of_code, of_segment = np.zeros(len(used), np.int64), np.zeros(len(labels), np.int64)
    np.maximum.at(of_code, joint // len(labels), counts)
    np.maximum.at(of_segment, joint % len(labels), counts)
    alone = [entropy_bits(np.bincount(side)) for side in (code, segment)]
    shared = sum(alone) - entropy_bits(counts)
    scale = np.sqrt(alone[0] * alone[1])
    return {
        "patches": codes.size,
        "gran_purity": of_code.sum() / codes.size,
        "gran_inverse_purity": of_segment.sum() / codes.size,
        "gran_mi_bits": shared,
        "gran_nmi": shared / scale if scale > 0 else np.nan,
    }


def bit_statistics(bits: np.ndarray) -> dict[str, object]:
    """Of binary codes [..., D]: each bit alone, and how far from independent they are together.

    total_correlation_bits: sum of the bits' entropies - entropy of whole codes: what a head of
    independent bits cannot say. It is too large where samples are few beside 2^D.
    mean_abs_bit_correlation: over pairs of unlike bits.
    """
    rows = bits.reshape(-1, bits.shape[-1])
    size, width = rows.shape
    sums, products = np.zeros(width), np.zeros((width, width))
    for start in range(0, size, 2**18):
        piece = rows[start : start + 2**18].astype(np.float64)
        sums += piece.sum(axis=0)
        products += piece.T @ piece
    mean = sums / size
    entropies = np.array([entropy_bits(np.array([size - ones, ones])) for ones in sums])
    joint = entropy_bits(sorted_counts(whole_codes(rows)))
    deviation = np.maximum(np.sqrt(mean * (1 - mean)), 1e-12)
    correlation = (products / size - np.outer(mean, mean)) / np.outer(deviation, deviation)
    others = ~np.eye(width, dtype=bool)
    return {
        "samples": size,
        "bit_mean": mean,
        "bit_entropy": entropies,
        "sum_bit_entropy": float(entropies.sum()),
        "joint_entropy_bits": joint,
        "total_correlation_bits": float(entropies.sum() - joint),
        "mean_abs_bit_correlation": float(np.abs(correlation[others]).mean())
        if width > 1
        else np.nan,
    }


def ngram_counts(codes: np.ndarray, max_ngram: int) -> dict[int, np.ndarray]:
    """`sorted_counts` of runs of 1, 2, ... codes."""
    longest = min(max_ngram, codes.shape[1])
    return {n: sorted_counts(ngrams(codes, n)) for n in range(1, longest + 1)}


def by_length(counts: dict[int, np.ndarray], vocabulary: int) -> dict[str, float]:
    """`frequencies` of the runs of n codes, each name with _n at its end."""
    return {
        f"{name}_{n}": value
        for n, sizes in counts.items()
        for name, value in frequencies(sizes, n, vocabulary).items()
    }


def in_sequence(codes: np.ndarray) -> dict[str, float]:
    """What a code says about the next one, and how the vocabulary grows."""
    pairs = pair_information(codes[:, :-1], codes[:, 1:])
    del pairs["pairs"]
    return {**pairs, **zipf.heaps(first_times(codes))}


def statistics(
    codes: np.ndarray, vocabulary: int, counts: dict[int, np.ndarray]
) -> dict[str, object]:
    """All of the above of codes [N, L] from a vocabulary of so many, given their `ngram_counts`."""
    return {
        **by_length(counts, vocabulary),
        **usage(counts[1], vocabulary),
        **in_sequence(codes),
        **compression(counts[1], vocabulary),
        **innovation(codes),
        **zipf.yule_simon(counts[1]),
        **zipf.benford(counts[1]),
    }


def shuffled(codes: np.ndarray, seed: int) -> np.ndarray:
    """The same codes in a random order over all images: what is left of a statistic is sample size."""
    return np.random.default_rng(seed).permutation(codes.reshape(-1)).reshape(codes.shape)


def shuffled_bits(bits: np.ndarray, seed: int) -> np.ndarray:
    """Each bit [..., D] in a random order of its own: independent bits of the same means."""
    rng = np.random.default_rng(seed)
    return rng.permuted(bits.reshape(-1, bits.shape[-1]), axis=0).reshape(bits.shape)
