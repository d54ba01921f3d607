"""Means over pairs of images, and the two trunks of LPIPS by the weights that are given."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from imgen.errors import UserError
from imgen.evaluation.definition import PAIRS, Metric
from imgen.evaluation.metrics import METRICS
from imgen.evaluation.pairs import means as pairs
from imgen.evaluation.pairs.means import pair_means
from imgen.evaluation.pairs.reconstruction import psnr
from imgen.interop import lpips as interop
from imgen.interop.table import to_official
from imgen.parallel.mesh import batch_sharding, make_mesh
from imgen.tokenizers.losses import lpips
from tests.evaluation.toy_network import images_of, pictures


def sharding(devices=8):
    return batch_sharding(make_mesh(devices=jax.devices()[:devices]))


def test_means_are_of_all_pairs_on_any_devices_and_identical_ones_are_counted():
    first, second = pictures(21, size=8), pictures(21, size=8, seed=1)
    second[[3, 20]] = first[[3, 20]]
    expected = np.asarray(psnr(first / 255.0, second / 255.0), np.float64).mean()
    for devices, batch_size in ((8, 8), (1, 5)):
        sets = images_of(first), images_of(second)
        means, same = pair_means(*sets, {"psnr": METRICS["psnr"]}, batch_size, sharding(devices))
        assert same == 2 and means["psnr"] == pytest.approx(expected, rel=1e-6)
        assert means.keys() == {"psnr"}


def test_the_trunk_is_that_of_the_weights(tmp_path):
    rng = np.random.default_rng(0)
    pair = [pictures(2, size=64, seed=seed) for seed in (0, 1)]
    for name, trunk in lpips.TRUNKS.items():
        params = jax.tree.map(
            lambda x: 0.03 * np.abs(rng.standard_normal(x.shape, np.float32)),
            lpips.abstract_params(trunk=trunk),
        )
        save_file(to_official(interop.rows(trunk), params), tmp_path / "a.safetensors")
        found = interop.load_any(tmp_path / "a.safetensors")
        assert found[0] == name
        if name == "alex":  # VGG's distance is measured by a test of the command
            sets = map(images_of, pair)
            means, _ = pair_means(*sets, {"lpips": METRICS["lpips"]}, 8, sharding(), dict([found]))
            scaled = (images / 127.5 - 1 for images in pair)
            expected = jax.jit(lpips.lpips, static_argnums=3)(params, *scaled, trunk).mean()
            assert means == {"lpips_alex": pytest.approx(float(expected), rel=1e-4)}
    save_file({"features.0.bias": np.zeros(64, np.float32)}, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"no weights of LPIPS: get .*vgg16.*alexnet.*vgg\.pth"):
        interop.load_any(tmp_path / "b.safetensors")
    (tmp_path / "vgg.pth").write_bytes(b"")
    for load in (interop.load_any, interop.load):
        with pytest.raises(
            UserError, match="vgg.pth has to be converted first: .*lpips_vgg.*--heads"
        ):
            load(tmp_path / "vgg.pth")


def test_images_that_leave_a_trunk_nothing_to_compare_are_refused():
    for name, trunk in lpips.TRUNKS.items():
        least, params = lpips.least_size(trunk), lpips.abstract_params(trunk=trunk)
        assert least == {"vgg": 16, "alex": 31}[name]
        for size in (least, least - 1):
            image = jax.ShapeDtypeStruct((1, size, 64, 3), np.float32)
            found = jax.eval_shape(lambda p, x, t=trunk: lpips.features(p, x, t), params, image)
            assert (found[-1].size > 0) == (size == least)
        images = images_of(np.zeros((2, least - 1, 64, 3), np.uint8))
        with pytest.raises(UserError, match=f"{name} needs images of at least {least}x{least}"):
            pair_means(images, images, {"lpips": METRICS["lpips"]}, 8, sharding(), {name: params})


def test_a_measure_that_is_not_finite_is_named_with_its_pair():
    def spoilt(x, y, weights):
        return {"psnr": jax.numpy.where(x[:, 0, 0, 0] == 0, np.nan, 1.0)}

    pixels = np.maximum(pictures(21), 1)
    pixels[19, 0, 0, 0] = 0
    images, others = images_of(pixels, "mine"), images_of(pixels, "theirs")
    with pytest.raises(UserError, match="psnr of pair 19 of mine and theirs is not finite"):
        pair_means(images, others, {"psnr": Metric(PAIRS, spoilt)}, 8, sharding())


def test_files_of_two_folders_are_pairs_by_name():
    pixels = pictures(3)
    named = dataclasses.replace(images_of(pixels, "mine"), stems=("1", "2", "10"))
    pairs.check_pairs(named, dataclasses.replace(named, name="theirs"), ["psnr"])
    pairs.check_pairs(named, images_of(pixels), ["psnr"])  # of a file, which has no names
    others = dataclasses.replace(named, name="theirs", stems=("1", "3", "10"))
    with pytest.raises(UserError, match="mine has 2 where theirs has 3: .* the same name"):
        pairs.check_pairs(named, others, ["psnr"])
