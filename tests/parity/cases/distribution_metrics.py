"""FID, Inception Score, precision and recall, and KID of given features."""

import numpy as np

from imgen.evaluation.sets.frechet import frechet_distance
from imgen.evaluation.sets.inception_score import inception_score, inception_score_shuffled
from imgen.evaluation.sets.kernel_distance import kernel_distance, squared_mmd
from imgen.evaluation.sets.moments import Moments, gaussian, merge
from imgen.evaluation.sets.precision_recall import precision_recall, squared_radii
from tests.parity.golden import Golden

RTOL = 1e-6


def distribution_metrics(g: Golden) -> None:
    samples, reference, config = g.input("sample"), g.input("ref"), g.config
    _frechet(g, samples, reference, config["n_small"])
    _shards(g, samples)
    _inception_score(g, samples, config["is_split"])

    n, k = min(len(samples), len(reference)), config["k"]
    found = precision_recall(samples, reference, k)
    for name in ("f32", "torch_fidelity"):
        for ours, kind, count in zip(
            found, ("precision", "recall"), (len(samples), len(reference)), strict=True
        ):
            assert abs(ours - g.out(f"{kind}_{name}")) <= 2 / count
            assert abs(ours - g.out(f"{kind}_f16")) <= max(0.02, 4 / count)  # rounded
    np.testing.assert_allclose(squared_radii(samples, k), g.out("radii2_sample"), rtol=1e-4)
    np.testing.assert_allclose(squared_radii(reference, k), g.out("radii2_ref"), rtol=1e-4)

    subsets, size = config["kid_subsets"], config["kid_subset_size"]
    mean, deviation = kernel_distance(samples, reference, subsets, size)
    np.testing.assert_allclose(mean, g.out("kid_mean"), rtol=RTOL)
    np.testing.assert_allclose(deviation, g.out("kid_std"), rtol=RTOL)
    by_hand = [
        squared_mmd(samples[i], reference[j])
        for i, j in zip(g.input("kid_idx_sample"), g.input("kid_idx_ref"), strict=True)
    ]
    np.testing.assert_allclose(mean, np.mean(by_hand), rtol=1e-12)  # the very subsets
    np.testing.assert_allclose(
        squared_mmd(samples[:n], reference[:n]), g.out("kid_full"), rtol=RTOL
    )


def _frechet(g: Golden, samples, reference, few: int) -> None:
    ours, theirs = gaussian(samples), gaussian(reference)
    for name, found in (("sample", ours), ("ref", theirs)):
        np.testing.assert_allclose(found.mean, g.out(f"mu_{name}"), atol=1e-9)
        np.testing.assert_allclose(found.covariance, g.out(f"sigma_{name}"), atol=1e-9)
    np.testing.assert_allclose(frechet_distance(ours, theirs), g.out("fid"), rtol=RTOL)
    small = frechet_distance(gaussian(samples[:few]), theirs)
    np.testing.assert_allclose(small, g.out("fid_small"), rtol=RTOL)
    np.testing.assert_allclose(frechet_distance(ours, ours), g.out("fid_self"), atol=1e-9)


def _shards(g: Golden, samples) -> None:
    bounds, parts = g.input("shard_bounds"), []
    for i, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        part = Moments(samples.shape[1])
        part.add(samples[start:end])
        assert part.count == g.out(f"shard{i}/n")
        np.testing.assert_allclose(part.count * part.mean, g.out(f"shard{i}/sum"), atol=1e-9)
        parts.append(part)
    whole = merge(parts).gaussian(len(samples))
    np.testing.assert_allclose(whole.mean, g.out("mu_sample"), atol=1e-9)
    np.testing.assert_allclose(whole.covariance, g.out("sigma_sample"), atol=1e-9)


def _inception_score(g: Golden, samples, split_size: int) -> None:
    logits = samples.astype(np.float64) @ g.input("fc_weight").T.astype(np.float64)
    np.testing.assert_allclose(inception_score(logits, split_size), g.out("is_adm"), rtol=RTOL)
    np.testing.assert_allclose(inception_score(logits), g.out("is_adm_default5000"), rtol=RTOL)
    mean, deviation = inception_score_shuffled(logits)
    np.testing.assert_allclose(mean, g.out("is_torch_fidelity_mean"), rtol=RTOL)
    np.testing.assert_allclose(deviation, g.out("is_torch_fidelity_std"), rtol=RTOL)
    biased = inception_score(logits + g.input("fc_bias"), split_size)
    np.testing.assert_allclose(biased, g.out("is_with_bias_wrong"), rtol=RTOL)


CASES = {"distribution_metrics": distribution_metrics}
