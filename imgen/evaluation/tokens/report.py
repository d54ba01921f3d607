"""All statistics of one data set's latents, each beside its control."""

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.tokens import statistics as token_stats
from imgen.evaluation.tokens.scans import scan_order
from imgen.latents import LatentSpec


def analyse(
    latents: np.ndarray,
    spec: LatentSpec,
    *,
    scan: str = "row",
    max_ngram: int = 3,
    segments: dict[str, np.ndarray] | None = None,
    seed: int = 0,
) -> tuple[dict, dict]:
    """Counts latents [N, *grid], or bits [N, *grid, D] -> what was found, and curves to draw.

    segments: by name, integer labels [N, positions] in raster order.
    seed: of the order of the images, which growth of the vocabulary depends on, and of all controls.

    found: "codes" (`token_stats.statistics`), "shuffled" (the same codes in random order), for 2D grids
    "neighbours", for bits "bits", with segments "granularity", each with controls of its own.
    curves: "counts" by n and of the shuffled codes, "distinct_after_image".
    """
    if spec.kind == "continuous":
        raise UserError(
            "continuous latents have no codes to count: choose a tokenizer of codes or bits"
        )
    order = scan_order(scan, spec.grid)
    place = np.random.default_rng(seed).permutation(len(latents))
    latents = latents[place]
    bits = latents.reshape(-1, spec.positions, spec.size) if spec.kind == "bits" else None
    if bits is None:
        codes, vocabulary = latents.reshape(-1, spec.positions), spec.size
    else:
        codes, vocabulary = token_stats.whole_codes(bits), 2**spec.size
    result, curves = _of_sequences(codes[:, order], vocabulary, max_ngram, seed)
    if len(spec.grid) == 2:
        result["neighbours"] = neighbours(codes.reshape(-1, *spec.grid), seed)
    if bits is not None:
        names = ("joint_entropy_bits", "total_correlation_bits", "mean_abs_bit_correlation")
        alone = token_stats.bit_statistics(token_stats.shuffled_bits(bits, seed))
        result["bits"] = {
            **token_stats.bit_statistics(bits),
            "shuffled": {name: alone[name] for name in names},
        }
    if segments:
        result["granularity"] = {
            name: granularity(codes, labels[place], seed) for name, labels in segments.items()
        }
    return result, curves


def _of_sequences(
    sequences: np.ndarray, vocabulary: int, max_ngram: int, seed: int
) -> tuple[dict, dict]:
    """What `analyse` gives of codes in the order in which they are read [N, L], and the curves."""
    counts = token_stats.ngram_counts(sequences, max_ngram)
    found = token_stats.statistics(sequences, vocabulary, counts)
    del found["new_per_image"]
    seen = found.pop("distinct_after_image")
    for share in (50, 90, 99):
        found[f"images_until_{share}_percent"] = token_stats.images_until(seen, share / 100)
    mixed = token_stats.shuffled(sequences, seed)
    mixed_counts = token_stats.ngram_counts(mixed, max_ngram)
    del mixed_counts[1]  # that of the codes themselves
    result = {
        "images": len(sequences),
        "tokens": sequences.size,
        "codes": found,
        "shuffled": {
            **token_stats.by_length(mixed_counts, vocabulary),
            **token_stats.in_sequence(mixed),
        },
    }
    curves = {f"{n}": sizes for n, sizes in counts.items()}
    curves |= {f"{n} shuffled": sizes for n, sizes in mixed_counts.items()}
    return result, {"counts": curves, "distinct_after_image": seen}


def neighbours(codes: np.ndarray, seed: int) -> dict[str, dict]:
    """What a code of a 2D grid [N, H, W] says about the one to its right and the one below it."""

    def both(codes: np.ndarray) -> dict[str, dict]:
        return {
            "right": token_stats.pair_information(codes[:, :, :-1], codes[:, :, 1:]),
            "below": token_stats.pair_information(codes[:, :-1], codes[:, 1:]),
        }

    return {**both(codes), "shuffled": both(token_stats.shuffled(codes, seed))}


def granularity(codes: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, object]:
    """Agreement with segment labels, and with the same labels in random order: what chance gives."""
    return {
        **token_stats.granularity(codes, labels),
        "permuted": token_stats.granularity(codes, token_stats.shuffled(labels, seed)),
    }
