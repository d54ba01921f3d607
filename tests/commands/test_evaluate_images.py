"""imgen.evaluate on files of images: CMMD, CLIPScore and LPIPS with random weights, and what records tell."""

import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from imgen import evaluate
from imgen.conditioning import clip_bpe
from imgen.evaluation.images import sample_files
from imgen.evaluation.networks.clip_embeddings import embed_images, embed_texts
from imgen.evaluation.networks.clip_input import resize_then_square, square_then_resize
from imgen.evaluation.sets.cmmd import cmmd
from imgen.interop import clip
from imgen.interop.lpips import rows
from imgen.interop.table import to_official
from imgen.runs import cli
from imgen.tokenizers.losses import lpips
from tests.conditioning.tiny_clip import write_clip
from tests.data.tiny import write_tfds
from tests.evaluation.toy_network import pictures, untrained_weights

MERGES = "#version\nd o\ndo g</w>\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with weights, images as files and as a folder, and prompts."""
    root = tmp_path_factory.mktemp("images")
    write_clip(root / "clip", vocab=516, length=12)
    (root / "merges.txt").write_text(MERGES)
    np.savez(root / "a.npz", pictures(20, size=32))
    np.savez(root / "b.npz", pictures(20, size=32, seed=1) // 2)
    (root / "folder").mkdir()
    for i, picture in enumerate(unlike(12)):
        Image.fromarray(picture).save(root / "folder" / f"{i:02}.png")
    (root / "prompts.txt").write_text("".join(f"{n} dogs\n" for n in range(20)))
    untrained_weights(root / "fd.safetensors")
    return root


def unlike(num):
    """Pictures of unlike sizes."""
    return [p[: 12 + i, : 20 - i] for i, p in enumerate(pictures(num, size=32, seed=2))]


def run(capsys, root, *arguments):
    """Exit status, results by name, and standard error. A word of `root`'s files becomes its path."""
    argv = [f"{root / word}" if (root / word).exists() else word for word in arguments]
    status = cli.run(lambda: evaluate.main([*argv, "--batch_size", "1"]), log_to=sys.stderr)
    out, err = capsys.readouterr()
    return status, json.loads(out)["results"] if status == 0 else None, err.strip()


def test_cmmd_of_files_folders_and_stored_embeddings(files, tmp_path, capsys):
    model, params = clip.load(files / "clip")

    def embedded(images):
        return embed_images(model, params, np.stack([square_then_resize(i, 8) for i in images]))

    common = ["--metrics", "cmmd", "--clip_weights", "clip", "--samples", "a.npz"]
    ours, theirs = embedded(pictures(20, size=32)), embedded(unlike(12))
    np.save(tmp_path / "coco.npy", theirs)
    for reference, name in (("folder", f"{files / 'folder'}"), (f"{tmp_path}/coco.npy", "coco")):
        status, found, err = run(capsys, files, *common, "--reference", reference)
        assert status == 0, err
        [(key, result)] = found.items()
        assert key == "cmmd/clip_w64_d2_p4_8/20" and result["settings"]["reference_images"] == 12
        assert result["protocol"]["reference"] == name
        assert result["protocol"]["resize"] == "square+pil_bicubic"
        assert result["value"] == pytest.approx(cmmd(ours, theirs), rel=1e-3)
    same = run(capsys, files, *common, "--reference", "a.npz")[1]
    assert abs(same[key]["value"]) < 1e-6 < 1e-4 < result["value"]


def test_a_data_set_comes_to_clips_size_as_a_folder_does(files, tmp_path, capsys):
    """Not through ADM's crop to the size of the samples."""
    images = pictures(12, size=24)
    write_tfds(tmp_path / "data", size=24, images=images)
    for i, picture in enumerate(images):
        Image.fromarray(picture).save(tmp_path / f"{i:02}.png")
    common = ["--metrics", "cmmd", "--clip_weights", "clip", "--data_dir", f"{tmp_path / 'data'}"]
    found = {}
    for where in ("tfds:tiny:train", f"{tmp_path}"):
        for samples, reference in (("a.npz", where), (where, "b.npz")):
            pair = ["--samples", samples, "--reference", reference]
            status, results, err = run(capsys, files, *common, *pair)
            assert status == 0, err
            [result] = results.values()
            found[where, samples == where] = result["value"], result["protocol"]["size"]
    for as_samples in (False, True):
        assert found["tfds:tiny:train", as_samples] == found[f"{tmp_path}", as_samples]


def test_resized_samples_of_a_folder_are_those_of_a_file(files, tmp_path, capsys):
    """Resized from their own size, not from CLIP's, and only then prepared for CLIP."""
    for i, picture in enumerate(pictures(20, size=32)):
        Image.fromarray(picture).save(tmp_path / f"{i:02}.png")
    common = ["--metrics", "cmmd,clipscore", "--clip_weights", "clip", "--reference", "b.npz"]
    common += ["--clip_vocab", "merges.txt", "--prompts", "prompts.txt", "--resize_to", "20"]
    found = {}
    for samples in ("a.npz", f"{tmp_path}"):
        status, found[samples], err = run(capsys, files, "--samples", samples, *common)
        assert status == 0, err
    of_file, of_folder = found.values()
    assert len(of_file) == 2 and of_file.keys() == of_folder.keys()
    for name, result in of_file.items():
        assert of_folder[name]["value"] == result["value"]
        assert of_folder[name]["protocol"] == result["protocol"]
    assert result["protocol"]["size"] == 32


def test_clip_score_is_the_mean_over_images_and_their_prompts(files, capsys):
    model, params = clip.load(files / "clip")
    tokenizer = clip_bpe.load(files / "merges.txt")
    images = np.stack([resize_then_square(i, 8) for i in pictures(20, size=32)])
    images = np.asarray(embed_images(model, params, images))
    common = ["--samples", "a.npz", "--metrics", "clipscore", "--clip_weights", "clip"]
    common += ["--clip_vocab", "merges.txt", "--prompts", "prompts.txt"]
    paper = ["--clip_prefix", "A photo depicts", "--clip_scale", "2.5", "--num", "9"]
    for more, prefix, scale, num, key in (
        ([], "", 100, 20, "clipscore/100/clip_w64_d2_p4_8/20"),
        (paper, "a photo depicts", 2.5, 9, "clipscore/2.5/a_photo_depicts/clip_w64_d2_p4_8/9"),
    ):
        status, found, err = run(capsys, files, *common, *more)
        assert status == 0, err
        ids = tokenizer([f"{prefix} {n} dogs" for n in range(num)], 12)
        cosines = np.sum(images[:num] * np.asarray(embed_texts(model, params, ids)), axis=1)
        assert found.keys() == {key} and found[key]["protocol"]["reference"] == "prompts.txt"
        expected = scale * np.maximum(cosines, 0).mean()
        assert found[key]["value"] == pytest.approx(expected, rel=1e-4) and expected > 0


def test_a_line_separator_inside_a_prompt_makes_no_second_prompt(files, tmp_path, capsys):
    """The same words with a plain space have the same score: no prompt has moved to another image."""
    common = ["--samples", "a.npz", "--metrics", "clipscore", "--clip_weights", "clip"]
    common += ["--clip_vocab", "merges.txt", "--num", "6", "--prompts"]
    found = {}
    for name, gap in (("plain", " "), ("odd", "\u2028"), ("next", "\x85"), ("feed", "\x0c")):
        lines = [f"{n}{gap}dogs" for n in range(6)]
        (tmp_path / name).write_bytes("\r\n".join(lines).encode("utf-8-sig") + b"\r\n")
        status, results, err = run(capsys, files, *common, f"{tmp_path / name}")
        assert status == 0, err
        [found[name]] = (result["value"] for result in results.values())
    assert found["plain"] > 0 and set(found.values()) == {found["plain"]}


def test_samples_of_lossy_files_are_noted_in_the_result(files, tmp_path, capsys):
    for i, picture in enumerate(pictures(4, size=32)):
        Image.fromarray(picture).save(tmp_path / f"{i}.{'jpg' if i % 2 else 'png'}")
    found = run(capsys, files, "--samples", f"{tmp_path}", "--metrics", "is", *FD)[1]
    assert found["is/fd_cifar/4"]["settings"]["lossy_files"] == 2
    found = run(capsys, files, "--samples", "a.npz", "--metrics", "is", *FD)[1]
    assert "lossy_files" not in found["is/fd_cifar/20"]["settings"]


def test_lpips_is_the_mean_over_pairs(files, tmp_path, capsys):
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: 0.03 * np.abs(rng.standard_normal(x.shape, np.float32)) - 0.01 * (x.ndim > 1),
        lpips.abstract_params(),
    )
    save_file(to_official(rows(), params), tmp_path / "lpips.safetensors")
    pairs = [pictures(3, size=16, seed=seed) for seed in (0, 1)]
    for name, images in zip("xy", pairs, strict=True):
        np.savez(tmp_path / f"{name}.npz", images)
    status, found, err = run(
        capsys, tmp_path, "--samples", "x.npz", "--reference", "y.npz", "--metrics", "lpips",
        "--lpips_weights", "lpips.safetensors",
    )  # fmt: skip
    assert status == 0, err
    pairs = (images / 127.5 - 1 for images in pairs)
    expected = jax.jit(lpips.lpips)(params, *pairs).mean()
    assert found["lpips_vgg/3"]["value"] == pytest.approx(float(expected), rel=1e-4)
    assert expected > 1e-3


def test_records_tell_kids_subsets_and_a_score_without_reference_names_none(files, capsys):
    common = [
        "--samples",
        "a.npz",
        "--features",
        "fd_cifar",
        "--features_weights",
        "fd.safetensors",
    ]
    found = run(capsys, files, *common, "--metrics", "kid", "--reference", "b.npz")[1]
    settings = found["kid/fd_cifar/20"]["settings"]
    assert (settings["subsets"], settings["subset_size"]) == (100, 20)
    result = run(capsys, files, *common, "--metrics", "is")[1]["is/fd_cifar/20"]
    assert result["protocol"]["reference"] is None
    assert result["published"] == result["published_partly"] == []


SCORE = ["--metrics", "clipscore", "--clip_weights", "clip"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics", "cmmd", "--reference", "b.npz"], ["no weights of CLIP", "Hugging Face"]),
        (["--metrics", "cmmd", "--clip_weights", "clip"], ["--reference is needed"]),
        (
            ["--metrics", "cmmd", "--clip_weights", "clip", "--reference", "wide.npy"],
            ["wide.npy", "768", "gives 24"],
        ),
        (
            ["--metrics", "cmmd", "--reference", "b.npz", "--write_reference", "c.npz"],
            ["--write_reference", "e.g. fid"],
        ),
        (SCORE, ["--prompts"]),
        ([*SCORE, "--prompts", "prompts.txt"], ["no vocabulary of CLIP"]),
        ([*SCORE, "--prompts", "holes.txt"], ["holes.txt: line 2 holds no prompt"]),
        (
            [*SCORE, "--prompts", "few.txt", "--clip_vocab", "merges.txt"],
            ["2 prompts", "20 images"],
        ),
    ],
)
def test_what_clips_metrics_lack_is_one_line(files, capsys, arguments, words):
    np.save(files / "wide.npy", np.ones((3, 768), np.float32))
    (files / "holes.txt").write_text("a\n\nb\n")
    (files / "few.txt").write_text("a\nb\n")
    status, _, err = run(capsys, files, "--samples", "a.npz", *arguments)
    assert status == 2 and len(err.splitlines()) == 1 and all(w in err for w in words), err


FD = ["--features", "fd_cifar", "--features_weights", "fd.safetensors"]


def test_mistakes_show_before_anything_is_measured(files, tmp_path, capsys, monkeypatch):
    def measured(*_, **__):
        raise AssertionError("something was measured")

    monkeypatch.setattr("imgen.evaluation.networks.extractor.Extractor.__call__", measured)
    monkeypatch.setattr("imgen.evaluation.metrics.one_pass", measured)
    monkeypatch.setattr("imgen.runs.measuring.pair_means", measured)
    np.savez(tmp_path / "unread.npz", arr_0=np.zeros(3))
    (tmp_path / "statistics.npz").mkdir()
    by_clip = ["--clip_weights", "clip"]
    against = ["--reference", "b.npz"]
    for metrics, more, words in (
        ("fid,psnr", ["--reference", "folder"], ["20 images", "12"]),
        ("fid,lpips", [*against, "--lpips_weights", "clip/model.safetensors"], ["LPIPS", "vgg"]),
        ("fid,sfid", against, ["fd_cifar gives no spatial"]),
        ("cmmd,fid", [*by_clip, "--reference", "unread.npz"], ["unread.npz", "not uint8"]),
        ("fid,clipscore", [*by_clip, *against, "--prompts", "none"], ["--prompts none"]),
        ("fid", [*against, "--write_reference", "none/a.npz"], ["--write_reference", "none/a.npz"]),
        ("fid", [*against, "--write_reference", "statistics.npz"], ["it is a folder"]),
        ("fid", [*against, "--num", "1"], ["a.npz[:1] has 1 image", "at least 2"]),
        ("fid", ["--reference="], ["--reference is empty"]),
    ):
        more = [f"{tmp_path / a}" if (tmp_path / a).exists() else a for a in more]
        status, _, err = run(capsys, files, "--samples", "a.npz", "--metrics", metrics, *FD, *more)
        assert status == 2 and len(err.splitlines()) == 1 and all(w in err for w in words), err


def test_results_are_added_to_those_of_before_and_printed_if_they_cannot_be_stored(
    files, tmp_path, capsys
):
    np.savez(tmp_path / "a.npz", pictures(20, size=32))
    common = ["--samples", f"{tmp_path / 'a.npz'}", *FD, "--reference", "b.npz"]
    stored = tmp_path / "a.evaluation.json"
    for metrics, count in (("fid", 1), ("is,psnr", 3), ("fid", 3)):
        assert run(capsys, files, *common, "--metrics", metrics)[0] == 0
        results = json.loads(stored.read_text())["results"]
        assert [len(of_name) for of_name in results.values()] == count * [1]
    other = [*common[:-1], "folder", "--image_size", "32", "--reference_num", "12"]
    assert run(capsys, files, *other, "--metrics", "fid")[0] == 0
    of_fid = json.loads(stored.read_text())["results"]["gfd/fd_cifar/20"]
    assert [r["protocol"]["reference"] for r in of_fid] == [
        f"{files / 'b.npz'}",
        f"{files / 'folder'}",
    ]
    stored.write_text('{"results": {"lpips": {"value": NaN}}}')  # as we once wrote
    assert run(capsys, files, *common, "--metrics", "psnr")[0] == 0
    kept = json.loads(stored.read_text())["results"]
    assert kept["lpips"] == [{"value": None}] and len(kept) == 2
    stored.write_text("{")
    status, found, err = run(capsys, files, *common, "--metrics", "psnr")
    assert status == 0 and "not readable JSON" in err
    assert json.loads(stored.read_text())["results"] == {k: [r] for k, r in found.items()}
    stored.unlink()
    stored.mkdir()
    status, found, err = run(capsys, files, *common, "--metrics", "psnr")
    assert status == 0 and found and "only be printed" in err


def test_protocols_know_the_samples_and_is_does_not_depend_on_other_metrics(
    files, tmp_path, capsys
):
    drawn = sample_files.drawn(
        {"class_balance": "random", "guidance": "cfg", "steps": 7}, {"seed": 3}
    )
    path = tmp_path / "drawn.npz"
    np.savez(path, pictures(20, size=32), **{sample_files.KEY: drawn})
    common = ["--samples", f"{path}", *FD]
    found = run(capsys, files, *common, "--metrics", "is,fid,kid", "--reference", "b.npz")[1]
    of_is, of_fid = found["is/fd_cifar/20"], found["gfd/fd_cifar/20"]
    assert of_fid["protocol"]["size"] == 32 and of_fid["protocol"]["steps"] == 7
    assert of_fid["protocol"]["guidance"] == "cfg" and of_fid["settings"]["seed"] == 3
    assert of_is["settings"]["splits"] == 1 and of_is["settings"]["split_size"] == 5000
    more = ["--reference", "b.npz"]
    assert (
        run(capsys, files, *common, "--metrics", "is", *more)[1]["is/fd_cifar/20"]["protocol"]
        == (of_is["protocol"])
    )
    unknown = run(capsys, files, "--samples", "a.npz", *FD, "--metrics", "is")[1]["is/fd_cifar/20"]
    assert unknown["protocol"]["guidance"] is unknown["protocol"]["reference"] is None
    assert unknown["value"] == of_is["value"]
    smaller = run(
        capsys, files, *common, "--metrics", "fid,psnr", *more, "--resize_to", "16"
    )  # of other images than the originals, in size too
    assert smaller[0] == 2 and "(16, 16)" in smaller[2]
    [smaller] = run(capsys, files, *common, "--metrics", "fid", *more, "--resize_to", "16")[
        1
    ].values()
    assert smaller["protocol"]["resize"].startswith("torch_bicubic_16+")
    assert smaller["protocol"]["size"] == 32 and smaller["value"] != of_fid["value"]


def test_a_result_that_is_not_finite_is_named_and_not_printed(files, capsys, monkeypatch):
    monkeypatch.setattr("imgen.runs.measuring.pair_means", lambda *_: ({"psnr": np.nan}, 0))
    common = ["--samples", "a.npz", "--reference", "b.npz", "--metrics", "psnr"]
    status, _, err = run(capsys, files, *common)
    assert status == 2 and "results/psnr/20/value is nan" in err


def test_a_metric_that_is_named_twice_is_measured_once(files, capsys, monkeypatch):
    asked = []

    def means(images, originals, metrics, *_):
        asked.extend(metrics)
        return {"psnr": 1.0}, 0

    monkeypatch.setattr("imgen.runs.measuring.pair_means", means)
    common = ["--samples", "a.npz", "--reference", "b.npz", "--metrics", "psnr,ssim,psnr"]
    assert run(capsys, files, *common)[0] == 0 and asked == ["psnr", "ssim"]


def test_a_home_folder_is_found_by_its_short_name_and_a_missing_folder_is_one_line(
    files, capsys, monkeypatch
):
    monkeypatch.setenv("HOME", f"{files}")
    (files / "a.evaluation.json").unlink(missing_ok=True)
    common = ["--samples", "~/a.npz", "--metrics", "clipscore", "--clip_weights", "~/clip"]
    more = ["--clip_vocab", "~/merges.txt", "--prompts", "~/prompts.txt"]
    status, found, err = run(capsys, files, *common, *more)
    assert status == 0, err
    stored = json.loads((files / "a.evaluation.json").read_text())["results"]
    assert stored == {name: [result] for name, result in found.items()}
    fd = ["--metrics", "is", *FD[:2], "--features_weights", "~/fd.safetensors"]
    assert run(capsys, files, "--samples", "~/a.npz", *fd)[0] == 0
    weights = ["--features_weights", "~/fd.safetensors"]
    err = run(capsys, files, "--samples", "~/a.npz", "--metrics", "is", *weights)[2]
    assert f"{files}/fd.safetensors" in err and "not inception" in err
    lpips_of = ["--metrics", "lpips", "--reference", "b.npz", "--lpips_weights"]
    err = run(capsys, files, "--samples", "~/a.npz", *lpips_of, "~/fd.safetensors")[2]
    assert "fd.safetensors holds no weights of LPIPS" in err
    status, _, err = run(capsys, files, "--samples", "~/none/samples", "--metrics", "is", *FD)
    assert status == 2 and len(err.splitlines()) == 1 and "no such file or folder" in err
