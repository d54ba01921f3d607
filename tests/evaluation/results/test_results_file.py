"""evaluation.json: results of unlike protocols and settings stand beside each other."""

import json

import pytest

from imgen.evaluation.results import results_file


def record(value, reference="train", **settings):
    return {"value": value, "protocol": {"reference": reference}, "settings": settings}


@pytest.fixture
def add(tmp_path):
    def add(result):
        path = tmp_path / "evaluation.json"
        results_file.add(path, result)
        return json.loads(path.read_text())

    return add


def test_only_what_was_measured_in_the_same_way_is_replaced(add):
    sweep = [record(1, guidance=1), record(2, guidance=2), record(3, "eval", guidance=2)]
    for result in sweep:
        found = add({"results": {"gfid/adm/50k": result}})
    assert found["results"]["gfid/adm/50k"] == sweep
    found = add({"results": {"gfid/adm/50k": record(4, guidance=2), "is/adm/50k": record(5)}})
    assert [r["value"] for r in found["results"]["gfid/adm/50k"]] == [1, 3, 4]
    assert found["results"]["is/adm/50k"] == [record(5)]


def test_a_runs_own_metrics_stand_beside_those_of_another_checkpoint(add):
    for step, psnr in ((8, 20.0), (4, 21.0), (8, 22.0)):
        found = add(
            {"workdir": "a", "reconstruction": {"step": step, "psnr": psnr, "protocol": {}}}
        )
    assert found["workdir"] == "a"
    assert [(r["step"], r["psnr"]) for r in found["reconstruction"]] == [(4, 21.0), (8, 22.0)]


def test_a_single_result_of_an_older_file_is_kept(add, tmp_path):
    of_old = {"is/adm/50k": record(1), "gfid/adm/50k": record(3)}
    old = {"workdir": "a", "reconstruction": {"step": 4}, "results": of_old}
    (tmp_path / "evaluation.json").write_text(json.dumps(old))
    found = add({"results": {"is/adm/50k": record(2, seed=1)}, "reconstruction": {"step": 8}})
    assert found["results"]["is/adm/50k"] == [record(1), record(2, seed=1)]
    assert found["results"]["gfid/adm/50k"] == [record(3)]
    assert found["reconstruction"] == [{"step": 4}, {"step": 8}]
