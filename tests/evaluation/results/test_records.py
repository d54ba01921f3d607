"""Published numbers: what they say, and what they may be compared with."""

import dataclasses
import json

import pytest

from imgen.conditioning.clip import SIZES
from imgen.errors import UserError
from imgen.evaluation.results import records
from imgen.evaluation.results.records import Protocol

OURS = Protocol(
    network="adm", resize="tf1_bilinear", reference="adm_imagenet256", n=50_000,
    size=256, class_balance="random", dtype="float32", guidance="cfg", steps=256,
)  # fmt: skip


def models(metric, **changes):
    return [
        record.model
        for record, _ in records.comparable(metric, dataclasses.replace(OURS, **changes))
    ]


def test_every_record_is_whole():
    for record in records.published():
        assert record.sources and set(record.sources) <= records.sources().keys()
        assert record.protocol.reference and record.value > 0
        if set(record.sources) <= {"S", "M"}:
            assert not record.verified
    same = [(r.model, r.metric, r.protocol) for r in records.published()]
    assert len(set(same)) == len(same)


def test_no_published_number_is_of_a_clip_that_is_known_by_its_size_only():
    networks = {record.protocol.network or "" for record in records.published()}
    assert not [name for name in networks if name.startswith(tuple(SIZES))]


def test_numbers_of_a_model():
    found = {r.metric: r for r in records.of_model("LlamaGen-B")}
    assert found["gfid"].value == 5.46 and found["is"].value == 193.6
    assert found["gfid"].protocol == OURS and found["gfid"].verified
    for model, fid in (("NAR-B", 4.65), ("xAR-B", 1.72), ("RAR-B", 1.95)):
        assert records.of_model(model)[0].value == fid
    xar = {r.metric: r.verified for r in records.of_model("xAR-B")}
    assert xar["gfid"] and not xar["is"]  # the latter is from memory
    with pytest.raises(UserError, match="did you mean 'LlamaGen-XL'"):
        records.of_model("LlamaGen-Xl")


def test_only_equal_protocols_compare():
    found = models("gfid")
    assert "LlamaGen-B" in found and "MaskBit (14 bits)" in found
    assert found.index("MaskBit (14 bits)") < found.index("LlamaGen-B")  # from the smallest
    assert "RAR-B" not in found and "RAR-B" in models("gfid", class_balance="balanced")
    assert "MAR-B" not in models("gfid", class_balance="balanced")  # torch-fidelity's numbers
    assert "DiT-XL/2" in models("gfid", steps=250) and "DiT-XL/2" not in found
    assert models("gfid", n=10_000) == models("gfid", guidance="none") == []
    assert models("gfid", reference="imagenet_val_256") == []
    larger = dict(size=384, steps=576)
    assert models("gfid", size=64) == models("gfid", size=None) == models("gfid", **larger) == []
    assert models("gfid", **larger, resize="torch_bicubic_256+tf1_bilinear")[0].endswith("(384)")
    assert "RAE DiT-DH-XL" not in models("gfid", guidance=None, steps=None)  # network unknown
    assert models("fid") == []
    unstated = dict((r.model, u) for r, u in records.comparable("gfid", OURS))
    assert unstated["LlamaGen-B"] == [] and unstated["MaskBit (14 bits)"] == ["class_balance"]
    few = dataclasses.replace(OURS, steps=8)
    unstated = dict((r.model, u) for r, u in records.comparable("gfid", few))
    assert unstated["MaskGIT"] == ["class_balance", "guidance", "steps"]  # 8 steps are from memory
    theirs = records.of_model("VAR-d30")[0].protocol
    assert records.differences(OURS, theirs) == {"steps": (256, 10)}


def test_names_carry_the_protocol_and_only_inception_gives_an_fid():
    assert OURS.name("gfid") == "gfid/adm/50k"
    assert dataclasses.replace(OURS, n=1500).name("is") == "is/adm/1500"
    assert Protocol(n=500).name("psnr") == "psnr/500"
    other = Protocol(network="random_inception", n=1000)
    assert other.name("gfid") == "gfd/random_inception/1k"
    assert other.name("rfid_val") == "rfd_val/random_inception/1k"


def test_no_word_of_a_result_of_another_network_is_fid():
    other = dataclasses.replace(OURS, network="random_inception")
    assert "fid" in json.dumps(records.result("gfid", 5.5, OURS, 1, 1))
    for metric in ("gfid", "sfid", "rfid_val", "rsfid"):
        text = json.dumps(records.result(metric, 5.5, other, 1, 1))
        assert "fid" not in text.lower() and "fd" in text


def test_a_result_is_json_with_its_protocol():
    found = json.loads(json.dumps(records.result("gfid", 5.5, OURS, 12.3456, 99.0)))
    assert found["name"] == "gfid/adm/50k" and found["protocol"]["steps"] == 256
    assert found["seconds"] == 12.346
    llamagen = {row["model"]: row for row in found["published"]}["LlamaGen-B"]
    assert llamagen["value"] == 5.46 and llamagen["sources"] == ["R", "N"]
    partly = {row["model"]: row["unstated"] for row in found["published_partly"]}
    assert partly["MaskBit (14 bits)"] == ["class_balance"] and "LlamaGen-B" not in partly
    assert all("unstated" not in row for row in found["published"])
    balanced = dataclasses.replace(OURS, class_balance="balanced", steps=8)
    found = records.result("gfid", 5.5, balanced, 1, 1)
    assert found["published"] == []  # TiTok-L-32's steps are from memory
    assert {"TiTok-L-32 + MaskGIT", "MaskGIT"} <= {r["model"] for r in found["published_partly"]}
