import numpy as np

from imgen.evaluation.pairs.reconstruction import psnr, ssim_gauss11, ssim_uniform7


def pair(seed=0):
    rng = np.random.default_rng(seed)
    first = rng.random((2, 16, 13, 3)).astype(np.float32)
    return first, np.clip(first + 0.1 * rng.standard_normal(first.shape), 0, 1).astype(np.float32)


def windows(x, size):
    """[H, W, C] -> every size x size window, [..., C, size, size]."""
    return np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (size, size), axis=(0, 1))


def test_ssim_is_its_definition_window_by_window():
    def ssim(x, y, weights, correction, c1, c2):
        mx, my = ((windows(v, len(weights)) * weights).sum((-2, -1)) for v in (x, y))
        xx, yy, xy = (
            (windows(v, len(weights)) * weights).sum((-2, -1)) for v in (x * x, y * y, x * y)
        )
        vx, vy, cov = (correction * v for v in (xx - mx * mx, yy - my * my, xy - mx * my))
        return np.mean(
            (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        )

    gauss = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    gauss = np.outer(gauss, gauss) / gauss.sum() ** 2
    first, second = pair()
    for i, found in enumerate(ssim_gauss11(first, second)):
        expected = ssim(
            first[i].astype(np.float64), second[i].astype(np.float64), gauss, 1, 1e-4, 9e-4
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
    flat = np.full((7, 7), 1 / 49)
    for i, found in enumerate(ssim_uniform7(first, second, 2.0)):
        x, y = first[i].astype(np.float64), second[i].astype(np.float64)
        np.testing.assert_allclose(found, ssim(x, y, flat, 49 / 48, 4e-4, 36e-4), atol=1e-5)


def test_equal_images_score_highest_and_each_image_counts_alone():
    first, second = pair()
    np.testing.assert_allclose(ssim_gauss11(first, first), 1.0, atol=1e-5)
    assert (np.asarray(psnr(first, first)) > 97).all()
    mixed = np.stack([first[0], second[1]])
    found = psnr(first, mixed)
    error = np.mean(np.square(first[1].astype(np.float64) - second[1]))
    np.testing.assert_allclose(found[1], -10 * np.log10(error), rtol=1e-5)
