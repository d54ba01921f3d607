"""Scores stored detections: `python -m imgen.evaluate --metrics METRIC --detections FILE`.

The file holds one record an image (forms: `prompts.detections`), with an optional
`filename`, and by metric:
  geneval  `metadata` (a prompt's record of evaluation_metadata.jsonl, an object or its JSON string) or its
           fields beside the others; `detections`: {"cls", "box", "score", "color"}, color where a clause asks
           for one; optional `options`, the official script's. Instead of `detections` the official
           results.jsonl, whose verdicts (`correct`) are taken as they are.
  visor    the image is `ID_SAMPLE` (key of a map, or file name); `detections`: {"box", "score", "label"},
           label 0 or 1 for the prompt's objects. Or the official results: `classes` and `sra`.
  t2i_compbench_spatial
           `obj1`, `obj2`, `labels`, `boxes`, `scores` in the detector's order, `locality` or `prompt`.
Boxes are [x0, y0, x1, y1] in pixels. A record may name its `detector`, or --detector does for all. Only the
benchmark's own detector gives the benchmark's score: of another, and where none is named, the scores are
called "geneval_like" and compare with nothing published. Images drawn from prompts that a language model had
rewritten say `prompt_rewrite`: true, or --prompt_rewrite does for all; their scores compare with such scores
only, and their reference is "geneval_553_rewritten".
"""

import inspect
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

from imgen.errors import UserError
from imgen.evaluation.prompts import geneval, t2i_compbench, visor
from imgen.evaluation.prompts.detections import (
    Detection,
    Record,
    detection_box,
    detection_score,
    field,
    known,
    read_records,
)
from imgen.evaluation.results import records
from imgen.evaluation.results.records import Protocol

log = logging.getLogger("imgen.evaluate")
# The official GenEval script's options; NMS_THRESHOLD is its name of max_overlap inside.
OPTIONS = ("threshold", "counting_threshold", "max_objects", "max_overlap", "position_threshold")
# The detectors (and colour classifier) of the published scores, as records.json calls them.
OFFICIAL = {
    "geneval": "mask2former_swin_s+clip_vit_l14",
    "visor": "owlvit_base_32",
    "t2i_compbench_spatial": "unidet_rs200",
}
OPTION_NAMES = {name: name for name in OPTIONS} | {"nms_threshold": "max_overlap"}
DEFAULTS = {name: inspect.signature(geneval.judge).parameters[name].default for name in OPTIONS}


def main(
    metrics: str | None, path: str, detector: str | None = None, prompt_rewrite: bool = False
) -> None:
    """Prints the scores of a file as one JSON object and writes it beside the file.

    FILE.jsonl (or .json) with metric geneval gives FILE.geneval.json. Raises UserError.
    """
    text = json.dumps(score(metrics, path, detector, prompt_rewrite), indent=2)
    print(text, flush=True)
    name = Path(path).name.removesuffix(".jsonl").removesuffix(".json")
    report = Path(path).with_name(f"{name}.{metrics}.json")
    try:
        report.write_text(text + "\n")
    except OSError as error:
        log.warning("cannot write %s (%s); the scores are only printed", report, error.strerror)


def score(
    metric: str | None, path: str | Path, detector: str | None = None, prompt_rewrite: bool = False
) -> dict[str, Any]:
    """Scores of the images of a file: {"detections": path, "detector", "prompt_rewrite", metric: all scores,
    "results": those that are published, as records by name}. metric: "geneval_like" of another detector than
    the official one.

    detector, prompt_rewrite: of records that don't say themselves. Raises UserError.
    """
    if metric not in BENCHMARKS:
        raise UserError(
            f"--detections takes one of --metrics {', '.join(BENCHMARKS)}, got {metric!r}; name one"
        )
    began, stored = time.monotonic(), read_records(path)
    detector, rewritten = _detector(stored, detector), _rewritten(stored, prompt_rewrite)
    scores, reference, values = BENCHMARKS[metric](stored)
    if reference and rewritten:
        reference += "_rewritten"
    seconds = time.monotonic() - began
    like = "" if detector == OFFICIAL[metric] else "_like"
    protocol = Protocol(
        network=detector or "unknown", resize="none", reference=reference, n=scores["images"]
    )
    found = [
        records.result(
            name.replace("/", f"{like}/", 1), value, protocol, seconds, len(stored) / seconds
        )
        for name, value in values.items()
    ]
    return {
        "detections": str(path),
        "detector": detector,
        "prompt_rewrite": rewritten,
        metric + like: scores,
        "results": {result["name"]: result for result in found},
    }


def _said(stored: list[Record], name: str, kind: type, asked: Any) -> dict[Any, str]:
    """What the records say of a field (`asked` where they don't) -> the first that says so."""
    said: dict[Any, str] = {}
    for record in stored:
        given = name in record.fields
        said.setdefault(
            field(record.fields, name, kind, record.where) if given else asked, record.where
        )
    return said


def _detector(stored: list[Record], asked: str | None) -> str | None:
    """The one that the user or the records name. Raises UserError where they disagree."""
    said = _said(stored, "detector", str, asked)
    names = [name for name in dict.fromkeys([asked, *said]) if name is not None]
    if len(names) > 1:
        raise UserError(
            f"{said[names[1]]}: detector is {names[1]!r}, not {names[0]!r}: score each detector's file by "
            "itself"
        )
    return names[0] if names else None


def _rewritten(stored: list[Record], asked: bool) -> bool:
    """Whether the images are of rewritten prompts, by the user's or the records' word. Raises UserError where
    they disagree."""
    said = _said(stored, "prompt_rewrite", bool, asked)
    if len(said) == 2:
        raise UserError(
            f"{said[True]} is of a rewritten prompt (prompt_rewrite), {said[False]} is not: score each kind "
            "by itself"
        )
    [rewritten] = said
    if asked and not rewritten:
        raise UserError(f"{said[False]} says prompt_rewrite false: leave out --prompt_rewrite")
    return rewritten


Scores = tuple[
    dict[str, Any], str | None, dict[str, float]
]  # all, the reference, those with records


def geneval_scores(stored: list[Record]) -> Scores:
    judged, options = [], []
    for record in stored:
        metadata = geneval_metadata(record)
        judged.append((metadata, geneval_correct(record, metadata)))
        chosen = geneval_options(record).items()
        options.append(json.dumps({k: v for k, v in chosen if v != DEFAULTS[k]}, sort_keys=True))
    scores = geneval.summarize(judged)
    official = scores["complete"] and geneval.are_official(metadata for metadata, _ in judged)
    if set(options) != {"{}"}:
        scores["options"] = [json.loads(text) for text in dict.fromkeys(options)]
        official = False
    _note(scores, f"{geneval.PROMPTS} prompts with {geneval.IMAGES_PER_PROMPT} images each")
    values = {f"geneval/{task}": value for task, value in scores["tasks"].items()}
    values["geneval/overall"] = scores["overall"]
    return scores, "geneval_553" if official else None, values


def geneval_metadata(record: Record) -> dict[str, Any]:
    """The prompt's record: tag, prompt, include and exclude clauses. Raises UserError."""
    where, metadata = record.where, record.fields.get("metadata", record.fields)
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: the string 'metadata' is not JSON ({error})") from error
    tag = known(field(metadata, "tag", str, where), geneval.TASKS, "task", where)
    found = {"tag": tag, "include": field(metadata, "include", list, where)}
    if "exclude" in metadata:
        found["exclude"] = field(metadata, "exclude", list, where)
    for group in ("include", "exclude"):
        for i, clause in enumerate(found.get(group, [])):
            _check_clause(clause, i, f"{where}, {group}[{i}]")
    return {**found, "prompt": field(metadata, "prompt", str, where)}


def _check_clause(clause: Any, number: int, where: str) -> None:
    _geneval_class(clause, "class", where)
    if field(clause, "count", int, where) < 1:
        raise UserError(f"{where}: count is {clause['count']}; it must be at least 1")
    if "color" in clause:
        known(field(clause, "color", str, where), geneval.COLORS, "GenEval colour", where)
    if "position" in clause:
        position = field(clause, "position", list, where)
        if len(position) != 2 or type(position[1]) is not int or position[1] not in range(number):
            raise UserError(
                f"{where}: position is {position}; it must be [relation, number of an earlier clause]"
            )
        known(position[0], geneval.RELATIONS, "relation", where)


def _geneval_class(fields: Any, name: str, where: str) -> str:
    word = field(fields, name, str, where)
    if word in geneval.RENAMED:
        raise UserError(
            f"{where}: GenEval calls COCO's {word!r} {geneval.RENAMED[word]!r}; rename it"
        )
    return known(word, geneval.CLASSES, "GenEval class", where)


def geneval_correct(record: Record, metadata: dict[str, Any]) -> bool:
    """The verdict on one image: decided from its detections, or as the official results say."""
    if "detections" not in record.fields and "details" in record.fields:
        return field(record.fields, "correct", bool, record.where)
    detections = geneval_detections(record)
    try:
        return geneval.judge(detections, metadata, **geneval_options(record)).correct
    except UserError as error:
        raise UserError(f"{record.where}: {error}") from error


def geneval_detections(record: Record) -> list[Detection]:
    """The stored detections of an image, of GenEval's classes and colours. Raises UserError."""
    detections = []
    for i, found in enumerate(field(record.fields, "detections", list, record.where)):
        where = f"{record.where}, detections[{i}]"
        name = _geneval_class(found, "cls", where)
        color = found.get("color")
        if color is not None:
            color = field(found, "color", str, where)
            known(color, geneval.COLORS, "GenEval colour", where)
        detections.append(Detection(name, *_box_and_score(found, where), color))
    return detections


def geneval_options(record: Record) -> dict[str, float]:
    """The options a record was stored with, as keyword arguments of `geneval.judge`."""
    if "options" not in record.fields:
        return {}
    given = {}
    for name, value in field(record.fields, "options", dict, record.where).items():
        option = OPTION_NAMES[known(name.lower(), tuple(OPTION_NAMES), "option", record.where)]
        kinds = (int,) if option == "max_objects" else (int, float)
        if type(value) not in kinds or not value >= 0:
            raise UserError(
                f"{record.where}: option {name} is {value!r:.40}; give "
                f"{'a whole number' if kinds == (int,) else 'a number'} of at least 0"
            )
        given[option] = value
    return given


def visor_scores(stored: list[Record]) -> Scores:
    judged, seen = [], {}
    for record in stored:
        prompt = visor_prompt(record)
        sample = Path(record.image).stem
        if sample in seen:
            raise UserError(
                f"{record.where}: image {sample} stands in {seen[sample]} too; keep one"
            )
        seen[sample] = record.where
        if "detections" in record.fields or "classes" not in record.fields:
            found = visor.judge(visor_detections(record, prompt), prompt)
        else:
            found = _official_visor_record(record, prompt)
        judged.append((prompt, found["classes"], found["sra"]))
    scores = visor.summarize(judged)
    _note(scores, f"{visor.PROMPTS} prompts with {visor.IMAGES_PER_PROMPT} images each")
    values = {f"visor/{k}": v for k, v in scores.items() if k == "OA" or k.startswith("VISOR_")}
    return scores, "sr2d_25280" if scores["complete"] else None, values


def visor_prompt(record: Record) -> visor.Prompt:
    """The SR2D prompt that an image's name gives. Raises UserError, also for another text."""
    if record.image is None:
        raise UserError(f"{record.where} lacks the field 'filename', such as '1116_0.png'")
    name = re.fullmatch(r"([0-9]{1,9})_[0-9]+", Path(record.image).stem)
    prompts = visor.sr2d_prompts()
    if not name or int(name[1]) >= len(prompts):
        raise UserError(
            f"{record.where}: image {record.image!r} is no ID_SAMPLE with a prompt's number "
            f"below {len(prompts)}, such as '1116_0'"
        )
    prompt = prompts[int(name[1])]
    if "text" in record.fields and field(record.fields, "text", str, record.where) != prompt.text:
        raise UserError(
            f"{record.where}: text is {record.fields['text']!r}, but prompt {prompt.unique_id} is "
            f"{prompt.text!r}; name the image after its prompt"
        )
    return prompt


def visor_detections(record: Record, prompt: visor.Prompt) -> list[Detection]:
    """The stored detections of an image, in the detector's order. Raises UserError."""
    detections = []
    for i, found in enumerate(field(record.fields, "detections", list, record.where)):
        where = f"{record.where}, detections[{i}]"
        label = field(found, "label", int, where)
        if label not in range(len(prompt.objects)):
            raise UserError(
                f"{where}: label {label} is none of the {len(prompt.objects)} objects "
                f"of {prompt.text!r}; they count from 0"
            )
        detections.append(Detection(prompt.objects[label], *_box_and_score(found, where)))
    return detections


def _official_visor_record(record: Record, prompt: visor.Prompt) -> dict[str, Any]:
    where = record.where
    for name in field(record.fields, "classes", list, where):
        known(name, prompt.objects, "object of the prompt", where)
    if field(record.fields, "sra", int, where) not in (0, 1):
        raise UserError(f"{where}: sra is {record.fields['sra']}; it must be 0 or 1")
    return {"classes": record.fields["classes"], "sra": record.fields["sra"]}


def t2i_compbench_scores(stored: list[Record]) -> Scores:
    """Which prompts are the benchmark's is not known here, so that nothing is compared."""
    scores = [t2i_compbench.image_score(**t2i_compbench_image(record)) for record in stored]
    mean = sum(scores) / len(scores)
    return {"score": mean, "images": len(scores)}, None, {"t2i_compbench/spatial": mean}


def t2i_compbench_image(record: Record) -> dict[str, Any]:
    """The arguments of `t2i_compbench.image_score`. Raises UserError."""
    fields, where = record.fields, record.where
    if "locality" in fields and fields["locality"] is not None:
        locality = field(fields, "locality", str, where)
        known(locality, t2i_compbench.LOCALITIES, "locality", where)
    else:
        locality = t2i_compbench.locality_of(field(fields, "prompt", str, where))
    labels, boxes, scores = (field(fields, f, list, where) for f in ("labels", "boxes", "scores"))
    if not len(labels) == len(boxes) == len(scores):
        raise UserError(
            f"{where}: {len(labels)} labels, {len(boxes)} boxes and {len(scores)} scores; "
            "give one of each for a detection"
        )
    detections = []
    for i, (label, box, score) in enumerate(zip(labels, boxes, scores, strict=True)):
        at = f"{where}, detection {i}"
        if not isinstance(label, str):
            raise UserError(f"{at}: label is {label!r:.40}; it must be a string")
        detections.append(Detection(label, detection_box(box, at), detection_score(score, at)))
    return {
        "detections": detections,
        "obj1": field(fields, "obj1", str, where),
        "obj2": field(fields, "obj2", str, where),
        "locality": locality,
    }


def _box_and_score(found: dict[str, Any], where: str) -> tuple[tuple[float, ...], float]:
    for name in ("box", "score"):
        if name not in found:
            raise UserError(f"{where} lacks the field {name!r}")
    return detection_box(found["box"], where), detection_score(found["score"], where)


def _note(scores: dict[str, Any], whole: str) -> None:
    if not scores["complete"]:
        log.warning(
            "%d images of %d prompts are not the benchmark's %s: not comparable with published scores",
            scores["images"], scores["prompts"], whole,
        )  # fmt: skip


BENCHMARKS = {
    "geneval": geneval_scores,
    "visor": visor_scores,
    "t2i_compbench_spatial": t2i_compbench_scores,
}
