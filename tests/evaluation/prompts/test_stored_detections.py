"""`imgen.evaluate --detections`: scores of stored detections, and what can be wrong with a file."""

import copy
import hashlib
import json
import sys

import pytest

from imgen import evaluate
from imgen.errors import UserError
from imgen.evaluation.prompts import geneval, stored_detections
from imgen.evaluation.results.records import Protocol, comparable
from imgen.runs import cli

DOG = {"cls": "dog", "box": [10, 10, 60, 60], "score": 0.95, "color": "blue"}
SINGLE = {
    "tag": "single_object",
    "include": [{"class": "dog", "count": 1}],
    "prompt": "a photo of a dog",
}
COLORS = {
    "tag": "colors",
    "include": [{"class": "dog", "count": 1, "color": "blue"}],
    "prompt": "a photo of a blue dog",
}
POSITION = {
    "tag": "position",
    "include": [
        {"class": "cat", "count": 1},
        {"class": "dog", "count": 1, "position": ["left of", 0]},
    ],
    "prompt": "a photo of a dog left of a cat",
}
PAIR = {
    "text": "a person to the left of a bicycle",
    "detections": [
        {"box": [0, 0, 10, 10], "score": 0.5, "label": 0},
        {"box": [20, 0, 30, 10], "score": 0.5, "label": 1},
    ],
}
SPATIAL = {
    "prompt": "a dog on the left of a cat", "obj1": "dog", "obj2": "cat", "labels": ["cat", "dog"],
    "boxes": [[100, 0, 110, 10], [0, 0, 10, 10]], "scores": [0.6, 0.8],
}  # fmt: skip
# Of SINGLE alone, as geneval.PROMPTS_SHA256.
PROMPT_OF_A_DOG = hashlib.sha256(json.dumps(SINGLE, sort_keys=True).encode()).hexdigest()


@pytest.fixture
def run(capsys):
    def run(metric, path, *more):
        """Exit status, the printed object (None: none) and standard error."""
        argv = ["--metrics", metric, "--detections", f"{path}", *more]
        status = cli.run(lambda: evaluate.main(argv), log_to=sys.stderr)
        printed = capsys.readouterr()
        return status, json.loads(printed.out) if printed.out else None, printed.err

    return run


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_geneval_from_lines_in_three_layouts(run, tmp_path):
    official = {
        "filename": "00002/samples/0000.png", "tag": "position", "prompt": POSITION["prompt"],
        "correct": True, "reason": "", "metadata": json.dumps(POSITION), "details": "{}",
    }  # fmt: skip
    path = lines(
        tmp_path / "found.jsonl",
        {"metadata": SINGLE, "detections": [DOG]},
        {**COLORS, "detections": [DOG, DOG]},
        {"metadata": json.dumps(COLORS), "detections": []},
        official,
    )
    status, printed, err = run("geneval", path, "--detector", stored_detections.OFFICIAL["geneval"])
    assert status == 0 and "not comparable" in err
    scores = printed["geneval"]
    assert scores["tasks"] == {"single_object": 1.0, "colors": 0.5, "position": 1.0}
    assert scores["overall"] == pytest.approx(2.5 / 3) and scores["prompts"] == 3
    assert json.loads((tmp_path / "found.geneval.json").read_text()) == printed


def test_only_the_official_detector_on_all_prompts_compares(tmp_path, monkeypatch):
    monkeypatch.setattr(geneval, "PROMPTS", 1)
    monkeypatch.setattr(geneval, "PROMPTS_SHA256", PROMPT_OF_A_DOG)
    found = {
        "metadata": SINGLE,
        "detections": [DOG],
        "detector": stored_detections.OFFICIAL["geneval"],
    }
    path = lines(tmp_path / "a.jsonl", *4 * [found])
    name = "geneval/overall/mask2former_swin_s+clip_vit_l14/4"
    result = stored_detections.score("geneval", path)["results"][name]
    assert result["protocol"]["reference"] == "geneval_553" and result["value"] == 1
    official = Protocol(**result["protocol"] | {"n": 2212})
    assert {r.model for r, _ in comparable("geneval/overall", official)} > {"SDXL", "NAR-XL"}
    by_name = {"threshold": 0.3, "NMS_THRESHOLD": 1.0, "max_objects": 16}
    path = lines(tmp_path / "a.jsonl", *2 * [found], *2 * [{**found, "options": by_name}])
    defaults = stored_detections.score("geneval", path)
    assert defaults["results"][name]["protocol"] == result["protocol"]
    assert "options" not in defaults["geneval"]
    for change in ({"options": {"threshold": 0.31}}, {"metadata": {**SINGLE, "prompt": "a dog"}}):
        path = lines(tmp_path / "a.jsonl", *4 * [{**found, **change}])
        for result in stored_detections.score("geneval", path)["results"].values():
            assert result["protocol"]["reference"] is None
            assert result["published"] == result["published_partly"] == []
    for name in ("hf_owlv2", None):
        other = {k: v for k, v in found.items() if k != "detector"}
        printed = stored_detections.score(
            "geneval", lines(tmp_path / "a.jsonl", *4 * [other]), name
        )
        assert "geneval" not in printed and printed["detector"] == name
        names = {name for name in printed["results"]} | {
            r["metric"] for r in printed["results"].values()
        }
        assert all(name.startswith("geneval_like/") for name in names)
        for result in printed["results"].values():
            assert result["published"] == result["published_partly"] == []
    with pytest.raises(UserError, match="line 1: detector is 'mask2former.*, not 'hf_owlv2'"):
        stored_detections.score("geneval", lines(tmp_path / "a.jsonl", found), "hf_owlv2")


def test_images_of_rewritten_prompts_compare_with_such_scores_only(run, tmp_path, monkeypatch):
    monkeypatch.setattr(geneval, "PROMPTS", 1)
    monkeypatch.setattr(geneval, "PROMPTS_SHA256", PROMPT_OF_A_DOG)
    found = {
        "metadata": SINGLE,
        "detections": [DOG],
        "detector": stored_detections.OFFICIAL["geneval"],
    }
    path = lines(tmp_path / "a.jsonl", *4 * [found])
    of_flag = run("geneval", path, "--prompt_rewrite")[1]
    said = lines(tmp_path / "b.jsonl", *4 * [{**found, "prompt_rewrite": True}])
    of_field = run("geneval", said)[1]
    assert of_flag["results"].keys() == of_field["results"].keys()
    for printed in (of_flag, of_field):
        assert printed["prompt_rewrite"] is True
        result = printed["results"]["geneval/overall/mask2former_swin_s+clip_vit_l14/4"]
        protocol = Protocol(**result["protocol"] | {"n": 2212})
        found_models = {r.model for r, _ in comparable("geneval/overall", protocol)}
        assert found_models == {
            "Emu3-Gen"
        }  # the only one whose score of rewritten prompts is known
    assert run("geneval", path)[1]["prompt_rewrite"] is False
    mixed = lines(tmp_path / "c.jsonl", found, {**found, "prompt_rewrite": True})
    assert "line 2 is of a rewritten prompt" in run("geneval", mixed)[2]
    denied = lines(tmp_path / "d.jsonl", {**found, "prompt_rewrite": False})
    assert "leave out --prompt_rewrite" in run("geneval", denied, "--prompt_rewrite")[2]
    words = lines(tmp_path / "e.jsonl", {**found, "prompt_rewrite": "gpt-4"})
    assert "prompt_rewrite is 'gpt-4'" in run("geneval", words)[2]


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"metadata": SINGLE, "detections": [DOG]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert stored_detections.score("geneval", path)["geneval_like"]["overall"] == 1


def test_options_are_those_of_the_record_and_are_reported(run, tmp_path):
    record = {"metadata": SINGLE, "detections": [dict(DOG, score=0.5)]}
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"cases": [record, {**record, "options": {"threshold": 0.6}}]}))
    _, printed, _ = run("geneval", path)
    assert printed["geneval_like"]["counts"] == {"single_object": [1, 2]}
    assert printed["geneval_like"]["options"] == [{}, {"threshold": 0.6}]


def test_visor_from_a_map_from_lines_and_from_official_results(run, tmp_path):
    wrong = copy.deepcopy(PAIR)
    wrong["detections"][0]["box"] = [40, 0, 50, 10]
    path = tmp_path / "results_model_0.1.json"
    path.write_text(json.dumps({"0_0": PAIR, "0_1": wrong}))
    status, of_map, _ = run("visor", path)
    assert status == 0 and of_map["visor_like"]["VISOR_uncond"] == 50
    assert of_map["visor_like"]["VISOR_1"] == 100 and of_map["visor_like"]["VISOR_2"] == 0
    assert (tmp_path / "results_model_0.1.visor.json").exists()

    named = [{**PAIR, "filename": "images/0_0.png"}, {**wrong, "filename": "images/0_1.png"}]
    assert (
        run("visor", lines(tmp_path / "a.jsonl", *named))[1]["visor_like"] == of_map["visor_like"]
    )

    both = {"classes": ["person", "bicycle"], "centroid": [[5, 5], [25, 5]], "recall": 2}
    official = {"0_0": {**both, "sra": 1}, "0_1": {**both, "sra": 0}}
    (tmp_path / "o.json").write_text(json.dumps(official))
    assert run("visor", tmp_path / "o.json")[1]["visor_like"] == of_map["visor_like"]


def test_t2i_compbench(run, tmp_path):
    there = {**SPATIAL, "locality": "on the right of"}
    path = lines(tmp_path / "found.jsonl", SPATIAL, there)
    status, printed, _ = run("t2i_compbench_spatial", path)
    assert status == 0
    assert printed["t2i_compbench_spatial_like"] == {"score": pytest.approx(0.425), "images": 2}


def test_scores_are_printed_even_if_they_cannot_be_stored(run, tmp_path):
    path = lines(tmp_path / "found.jsonl", SPATIAL)
    (tmp_path / "found.t2i_compbench_spatial.json").mkdir()
    status, printed, err = run("t2i_compbench_spatial", path)
    assert status == 0 and printed and "cannot write" in err


def changed(record, **fields):
    return {**copy.deepcopy(record), **fields}


def detected(**fields):
    return {"metadata": COLORS, "detections": [DOG, {**DOG, **fields}]}


def without(name):
    return {"metadata": SINGLE, "detections": [{k: v for k, v in DOG.items() if k != name}]}


def clause(**fields):
    metadata = changed(POSITION)
    metadata["include"][1] |= fields
    return {"metadata": metadata, "detections": []}


@pytest.mark.parametrize(
    "metric, record, words",
    [
        ("geneval", without("cls"), ["line 2", "detections[0]", "'cls'"]),
        ("geneval", without("box"), ["detections[0]", "'box'"]),
        ("geneval", without("score"), ["detections[0]", "'score'"]),
        ("geneval", {"metadata": SINGLE}, ["'detections'"]),
        ("geneval", {"detections": []}, ["'tag'"]),
        ("geneval", {"metadata": {"tag": "colors", "prompt": ""}, "detections": []}, ["'include'"]),
        ("geneval", {"metadata": "{", "detections": []}, ["'metadata' is not JSON"]),
        ("geneval", {"metadata": changed(SINGLE, tag="color"), "detections": []}, ["'colors'"]),
        ("geneval", detected(cls="mouse"), ["detections[1]", "'computer mouse'"]),
        ("geneval", detected(cls="bicicle"), ["'bicycle'"]),
        ("geneval", detected(color="grey"), ["'grey'", "colour"]),
        ("geneval", detected(color=3), ["color is 3"]),
        ("geneval", detected(box=[60, 10, 10, 60]), ["out of order"]),
        ("geneval", detected(box=[10, 60, 60, 10]), ["out of order"]),
        ("geneval", detected(box=[1, 2, 3]), ["[x0, y0, x1, y1]"]),
        ("geneval", detected(box=[1, 2, 3, float("nan")]), ["finite"]),
        ("geneval", detected(box=[1, 2, 3, 10**400]), ["finite"]),
        ("geneval", detected(score=95), ["between 0 and 1"]),
        ("geneval", detected(score="high"), ["'high'"]),
        ("geneval", {"metadata": COLORS, "detections": [dict(DOG, color=None)]}, ["'color'"]),
        ("geneval", clause(count=0), ["include[1]", "at least 1"]),
        ("geneval", clause(count=True), ["whole number"]),
        ("geneval", clause(color="bluee"), ["'blue'"]),
        ("geneval", clause(position=["left of", 1]), ["earlier clause"]),
        ("geneval", clause(position=["left of", -1]), ["earlier clause"]),
        ("geneval", clause(position=["left", 0]), ["'left of'"]),
        ("geneval", clause(**{"class": "wolf"}), ["'wolf'"]),
        ("geneval", {**detected(), "options": {"treshold": 0.5}}, ["'threshold'"]),
        ("geneval", {**detected(), "options": {"max_objects": 1.5}}, ["whole number"]),
        ("geneval", {**SINGLE, "correct": 1, "details": "{}"}, ["correct is 1"]),
        ("geneval", [DOG], ["a JSON object"]),
        ("visor", PAIR, ["'filename'"]),
        ("visor", changed(PAIR, filename="31680_0.png"), ["31680_0", "below 31680"]),
        ("visor", changed(PAIR, filename="cat.png"), ["cat.png"]),
        ("visor", changed(PAIR, filename="1_0.png"), ["a bicycle to the left of a person"]),
        ("visor", {"filename": "31679_0", "detections": PAIR["detections"]}, ["label 1"]),
        ("visor", {"filename": "0_0", "text": PAIR["text"]}, ["'detections'"]),
        ("visor", {"filename": "0_0", "classes": ["cat"], "sra": 1}, ["'cat'"]),
        ("visor", {"filename": "0_0", "classes": [], "sra": 2}, ["0 or 1"]),
        ("t2i_compbench_spatial", changed(SPATIAL, scores=[1]), ["2 labels", "1 scores"]),
        ("t2i_compbench_spatial", changed(SPATIAL, labels=["a", 3]), ["detection 1", "string"]),
        ("t2i_compbench_spatial", changed(SPATIAL, locality="left of"), ["on the left of"]),
        ("t2i_compbench_spatial", {k: SPATIAL[k] for k in ("obj1", "labels")}, ["'prompt'"]),
    ],
)
def test_a_bad_record_is_one_clear_line(run, tmp_path, metric, record, words):
    good = {
        "geneval": {"metadata": SINGLE, "detections": [DOG]},
        "visor": {**PAIR, "filename": "0_1.png"},
        "t2i_compbench_spatial": SPATIAL,
    }[metric]
    status, printed, err = run(metric, lines(tmp_path / "found.jsonl", good, record))
    assert status == 2 and printed is None and len(err.splitlines()) == 1, err
    assert all(word in err for word in ["line 2", *words]), err
    assert not list(tmp_path.glob("*.json"))


GOOD = json.dumps({"metadata": SINGLE, "detections": [DOG], "filename": "a"})


@pytest.mark.parametrize(
    "metric, name, text, words",
    [
        ("geneval", "a.jsonl", "", ["is empty"]),
        ("geneval", "a.json", "[]", ["no records"]),
        ("geneval", "a.json", "3", ["a list"]),
        ("geneval", "a.json", '[{},\n{"tag": }]', ["not JSON", "line 2"]),
        ("geneval", "a.jsonl", f"{GOOD}\n{GOOD[:-3]}\n", ["line 2 is not JSON", "column"]),
        ("geneval", "a.txt", f"{GOOD}\n{GOOD[:-3]}\n", ["line 2 is not JSON"]),
        ("geneval", "a.jsonl", f"{GOOD}\n\n{GOOD}\n", ["line 3", "image 'a'", "line 1"]),
        ("geneval", "a.jsonl", '{"tag": "a", "tag": "b"}', ["'tag' stands twice"]),
        ("geneval", "a.json", "[" * 100_000, ["not readable JSON"]),
        ("visor", "a.json", '{"0_0": {"classes": []}, "0_0": {}}', ["'0_0' stands twice"]),
        ("visor", "a.json", '{"0_0": 3}', ["image '0_0'", "a JSON object"]),
    ],
)
def test_a_bad_file_is_one_clear_line(run, tmp_path, metric, name, text, words):
    (tmp_path / name).write_text(text)
    status, printed, err = run(metric, tmp_path / name)
    assert status == 2 and printed is None and len(err.splitlines()) == 1, err
    assert all(word in err for word in [name, *words]), err


def test_one_visor_image_in_two_folders_is_given_twice(run, tmp_path):
    twice = [changed(PAIR, filename=f"{folder}/0_0.png") for folder in "ab"]
    status, _, err = run("visor", lines(tmp_path / "found.jsonl", *twice))
    assert status == 2 and "image 0_0 stands in" in err


def test_wrong_flags_and_files(run, capsys, tmp_path):
    path = lines(tmp_path / "found.jsonl", SPATIAL)
    assert "t2i_compbench_spatial" in run("fid", path)[2]
    assert "name one" in run("geneval,visor", path)[2]
    for flag in (
        ["--num", "3"],
        ["--seed", "1"],
        ["--reference", "a.npz"],
        ["--features", "fd_cifar"],
    ):
        status, printed, err = run("geneval", path, *flag)
        assert status == 2 and printed is None and f"{flag[0]}: not with --detections" in err
    argv = ["--samples", "a.npz", "--metrics", "is", "--prompt_rewrite"]
    assert cli.run(lambda: evaluate.main(argv), log_to=sys.stderr) == 2
    assert "--prompt_rewrite: only with --detections" in capsys.readouterr().err
    assert "--workdir" in run("geneval", path, "--workdir", f"{tmp_path}")[2]
    assert "No such file" in run("geneval", tmp_path / "none.jsonl")[2]
    assert "directory" in run("geneval", tmp_path)[2]
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    assert "UTF-8" in run("geneval", tmp_path / "binary.json")[2]
    assert cli.run(lambda: evaluate.main([])) == 2 and "--workdir" in capsys.readouterr().err
    assert cli.run(lambda: evaluate.main(["--detections", f"{path}"])) == 2
    assert "name one" in capsys.readouterr().err
