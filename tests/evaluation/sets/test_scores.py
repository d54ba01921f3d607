"""Inception Score, KID, precision and recall, and CMMD, against their definitions."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from imgen.errors import UserError
from imgen.evaluation.prompts import clip_score
from imgen.evaluation.prompts.zero_shot import class_embeddings, zero_shot_logits
from imgen.evaluation.sets import neighbours, precision_recall
from imgen.evaluation.sets.cmmd import cmmd
from imgen.evaluation.sets.inception_score import inception_score, inception_score_shuffled
from imgen.evaluation.sets.kernel_distance import kernel_distance, squared_mmd
from imgen.parallel.mesh import make_mesh


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_inception_score_counts_sure_and_varied_classes():
    sure = 200.0 * np.eye(8, dtype=np.float32)[np.arange(64) % 8]
    assert inception_score(sure) == pytest.approx(8)
    assert inception_score(sure, split_size=2) == pytest.approx(2)  # two classes in each group
    assert inception_score(sure[np.argsort(np.arange(64) % 8)], split_size=8) == pytest.approx(1)
    assert inception_score(np.zeros((10, 8), np.float32)) == pytest.approx(1)
    mean, deviation = inception_score_shuffled(sure, splits=1)
    assert mean == pytest.approx(8) and deviation == 0
    logits = 3 * normal(5000, 10)  # more than one block of rows
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = np.exp(np.mean(np.sum(p * np.log(p / p.mean(0)), axis=1)))
    assert inception_score(logits) == pytest.approx(expected, rel=1e-5)
    assert inception_score(logits + 1000) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match="3 samples make no 10 groups"):
        inception_score_shuffled(logits[:3])


def test_kernel_distance_is_unbiased_repeatable_and_needs_enough_samples():
    x, y, far = normal(400, 16), normal(300, 16, seed=1), normal(400, 16, seed=2) + 1
    same, deviation = kernel_distance(x, y, subsets=20, subset_size=100)
    assert abs(same) < 3 * deviation < 0.2
    assert kernel_distance(far, y, subsets=20, subset_size=100)[0] > 1
    assert kernel_distance(x, y, 5, 50) == kernel_distance(x, y, 5, 50)
    assert kernel_distance(x, y, 5, 50) != kernel_distance(x, y, 5, 50, seed=1)

    def kernel(u, v):
        return (u @ v / 16 + 1.0) ** 3

    a, b = x[:4].astype(np.float64), y[:3].astype(np.float64)
    expected = np.mean([kernel(u, v) for i, u in enumerate(a) for j, v in enumerate(a) if i != j])
    expected += np.mean([kernel(u, v) for i, u in enumerate(b) for j, v in enumerate(b) if i != j])
    expected -= 2 * np.mean([kernel(u, v) for u in a for v in b])
    assert squared_mmd(a, b) == pytest.approx(expected)
    with pytest.raises(UserError, match="subset_size must be from 2 to 300"):
        kernel_distance(x, y)
    with pytest.raises(UserError, match="at least 2 images of either side, not 400 .* and 1 of"):
        kernel_distance(x, y[:1], subset_size=1)
    with pytest.raises(UserError, match="17 numbers a sample, not 16"):
        kernel_distance(normal(400, 17), y)


def by_definition(samples, reference, k):
    def between(a, b):
        return np.sum((a[:, None].astype(np.float64) - b) ** 2, axis=-1)

    def radii(x):
        return np.sort(between(x, x), axis=1)[:, k]

    d = between(samples, reference)
    return (d <= radii(reference)).any(1).mean(), (d <= radii(samples)[:, None]).any(0).mean()


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_whatever_the_blocks(monkeypatch, k):
    samples, reference = 0.8 * normal(650, 5) + 100, normal(310, 5, seed=1) + 100
    expected = by_definition(samples, reference, k)
    assert 0.2 < expected[1] < expected[0] < 1
    for block in (250, 4096):  # of 256 rows on the tests' 8 devices
        monkeypatch.setattr(neighbours, "BLOCK", block)
        found = precision_recall.precision_recall(samples, reference, k)
        assert found == pytest.approx(expected, abs=1e-9)
    assert precision_recall.precision_recall(reference, reference, k) == (1, 1)
    with pytest.raises(UserError, match="k = 5 neighbours need at least 6 images .* not 5"):
        precision_recall.precision_recall(samples, reference[:5], 5)
    with pytest.raises(UserError, match="k = 1 neighbour or more, not 0"):
        precision_recall.precision_recall(samples, reference, 0)
    with pytest.raises(UserError, match="reference's features of sample 0 are not finite"):
        precision_recall.precision_recall(samples, reference * np.nan)


def crowded(points, share, seed):
    """[points, 24]; a share of them within 3 narrow places."""
    rows, some = normal(points, 24, seed=seed), int(share * points)
    rows[:some] = 9 * normal(3, 24)[np.arange(some) % 3] + 0.3 * rows[:some]
    return rows


def ties(points, seed):
    """Whole numbers with the mean 0: distances are whole numbers too, and many of them equal; with copies."""
    half = np.random.default_rng(seed).integers(-1, 2, (points // 2, 24)).astype(np.float32)
    half[10:40] = half[:30]
    half[40:60] = half[9]
    return np.concatenate([half, -half])


@pytest.mark.parametrize("kind", ["random", "some crowded", "all crowded", "ties"])
def test_blocks_decide_as_float64_does_even_of_equal_distances(monkeypatch, kind):
    monkeypatch.setattr(neighbours, "BLOCK", 250)
    x, y = {
        "random": lambda: (0.8 * normal(600, 24), normal(300, 24, seed=1)),
        "some crowded": lambda: (crowded(600, 0.2, 0), crowded(300, 0.2, 1)),
        "all crowded": lambda: (crowded(600, 1, 0), crowded(300, 1, 1)),
        "ties": lambda: (np.concatenate([ties(400, 0), ties(200, 1)]), ties(300, 1)),
    }[kind]()
    expected = by_definition(x, y, 3)
    assert min(expected) > 0 and (kind == "ties" or max(expected) < 1)
    assert precision_recall.precision_recall(x, y) == expected


def test_devices_share_the_work_and_change_nothing(monkeypatch):
    x, y = normal(300, 16), normal(150, 16, seed=1)
    monkeypatch.setattr(
        "imgen.evaluation.sets.cmmd.BLOCK", 100
    )  # 100 and 50 rows are no multiples of 8
    found = []
    for devices in (1, 8):
        mesh = Mesh(np.array(jax.local_devices()[:devices]), ("rows",))
        for module in ("neighbours", "cmmd"):
            monkeypatch.setattr(
                f"imgen.evaluation.sets.{module}.local_mesh", lambda mesh=mesh: mesh
            )
        with jax.set_mesh(make_mesh()):
            block = neighbours.points(x, x.mean(axis=0)).blocks[0]
            found.append((*precision_recall.precision_recall(x, y), cmmd(x, y)))
            found.append(precision_recall.squared_radii(x))
        with jax.set_mesh(mesh):
            distances = jax.jit(neighbours._distances)(block, block)
        assert distances.sharding.shard_shape(distances.shape)[0] == len(distances) / devices
    assert found[0][:2] == found[2][:2] and found[0][2] == pytest.approx(found[2][2], rel=1e-6)
    np.testing.assert_allclose(found[1], found[3], rtol=1e-6)


def test_a_missing_mode_costs_recall_and_not_precision():
    reference, samples = normal(200, 4), normal(200, 4, seed=1)
    reference[100:] += 50
    precision, recall = precision_recall.precision_recall(samples, reference)
    assert precision > 0.6 and 0.3 < recall <= 0.5
    assert precision_recall.precision_recall(samples + 100, reference) == (0, 0)


def test_cmmd_keeps_its_digits_and_ignores_length(monkeypatch):
    monkeypatch.setattr("imgen.evaluation.sets.cmmd.BLOCK", 32)
    x, y = normal(70, 24), normal(50, 24, seed=1) + 0.2

    def unit(v):
        return v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True)

    def kernel(a, b):
        return np.exp(-np.sum((unit(a)[:, None] - unit(b)) ** 2, axis=-1) / 200).mean()

    expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-6)
    assert cmmd(x * 7, y) == pytest.approx(expected, rel=1e-6)
    assert abs(cmmd(x, x)) < 1e-6
    x[3] = 0
    with pytest.raises(UserError, match="zero and has no direction"):
        cmmd(x, y)


def test_clip_scores_cut_at_zero_and_zero_shot_takes_the_mean_of_prompts():
    images, texts = np.eye(3, dtype=np.float32), np.array([[2.0, 0, 0], [0, -1, 0], [0, 3, 4]])
    np.testing.assert_allclose(clip_score.clip_score(images, texts), [100, 0, 80])
    scores = clip_score.clip_score(images, texts, clip_score.PAPER_SCALE)
    both = clip_score.ref_clip_score(scores, np.array([0.5, -0.5, 1.0]))
    np.testing.assert_allclose(both, [2 * 2.5 * 0.5 / 3, 0, 2 * 2 / 3])
    with pytest.raises(UserError, match="3 images but 2 texts"):
        clip_score.cosines(images, texts[:2])
    prompts = np.stack([[[9.0, 0, 0], [0, 1, 0]], [[0, 0, 1.0], [0, 0, 5]]])  # lengths don't count
    classes = class_embeddings(prompts)
    np.testing.assert_allclose(classes, [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]])
    logits = zero_shot_logits(images, classes)
    np.testing.assert_allclose(logits[:, 0], [50 * 2**0.5, 50 * 2**0.5, 0], atol=1e-9)
