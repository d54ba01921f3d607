"""CMMD, CLIPScore, VQAScore and zero-shot classification of given embeddings."""

import numpy as np

from imgen.evaluation.prompts.clip_score import PAPER_SCALE, clip_score, cosines, ref_clip_score
from imgen.evaluation.prompts.vqa_score import vqa_score
from imgen.evaluation.prompts.zero_shot import class_embeddings, zero_shot_logits
from imgen.evaluation.sets.cmmd import cmmd
from tests.parity.golden import Golden


def clip_metrics(g: Golden) -> None:
    x, y = g.input("x"), g.input("y")
    np.testing.assert_allclose(cmmd(x, y), g.out("cmmd"), rtol=1e-6)
    np.testing.assert_allclose(cmmd(x, x), g.out("cmmd_self"), atol=1e-6)
    assert abs(cmmd(x, y) - g.out("cmmd_unbiased_not_official")) > 1e-3

    images, texts = g.input("image_emb"), g.input("text_emb")
    scores = clip_score(images, texts, PAPER_SCALE)
    references = cosines(images, g.input("ref_text_emb"))  # images: a check of the arithmetic only
    logits = zero_shot_logits(g.input("crop_emb"), class_embeddings(g.input("colour_text_emb")))
    for ours, name in (
        (cosines(images, texts), "cosine"),
        (scores, "clipscore_w2.5"),
        (clip_score(images, texts), "clipscore_w100"),
        (ref_clip_score(scores, references), "refclipscore_single_ref"),
        (vqa_score(g.input("vqa_logits"), g.input("vqa_labels")), "vqascore"),
        (logits, "colour_logits"),
    ):
        np.testing.assert_allclose(ours, g.out(name), rtol=1e-5, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(logits.argmax(axis=-1), g.out("colour_argmax"))


CASES = {"clip_metrics": clip_metrics}
