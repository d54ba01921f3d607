"""Results with the protocol that they were measured by, beside published ones of the same protocol only.

Published ones whose source leaves some of the protocol unsaid stand by themselves, with what is unsaid.

A number such as an FID means little without the network and resize, the reference, how many samples there
were and how they were drawn. The published numbers and their sources are in records.json; what a paper does
not say is left out there.
"""

import dataclasses
import functools
import json
from importlib import resources
from typing import Any

from imgen.errors import UserError, did_you_mean

FID_NETWORKS = ("adm", "torch_fidelity", "pytorch_fid", "clean_fid")  # Inception, in its dialects
NEEDED = ("network", "resize", "reference", "n")  # without these nothing is compared


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a number was measured; None where that is not known or means nothing.

    network: of the features, with its dialect ("adm"). resize: how samples came to the network's size.
    reference: what they are held against; of the Inception Score, for which nothing is, the data that they
    imitate. n: samples. size: their pixels a side as they are drawn or stored, before `resize`, or
    "WIDTHxHEIGHT". class_balance: "balanced" or "random" labels. dtype: of the network. guidance: "none",
    "cfg", ...: the kind and not its weight, which belongs to the settings. steps: forward passes of the
    generator for one sample.
    """

    network: str | None = None
    resize: str | None = None
    reference: str | None = None
    n: int | None = None
    size: int | str | None = None
    class_balance: str | None = None
    dtype: str | None = None
    guidance: str | None = None
    steps: int | None = None

    def metric(self, metric: str) -> str:
        """Its name under this network: FID is Inception's, of others it is a Frechet distance, "gfd"."""
        return metric if self.network in FID_NETWORKS else metric.replace("fid", "fd")

    def name(self, metric: str) -> str:
        """ "gfid/adm/50k": the metric, the network, how many samples."""
        parts = [self.metric(metric)] + ([] if self.network is None else [self.network])
        if self.n is not None:
            thousands, rest = divmod(self.n, 1000)
            parts.append(f"{thousands}k" if thousands and not rest else str(self.n))
        return "/".join(parts)


@dataclasses.dataclass(frozen=True)
class Record:
    """A published number. sources: see `sources`. verified: whether it was read at a source that can be held
    to it; False for summaries at second hand and for memory. unverified: fields of the protocol that are so.
    """

    model: str
    metric: str
    value: float
    protocol: Protocol
    parameters: str
    sources: tuple[str, ...]
    verified: bool
    unverified: tuple[str, ...] = ()


@functools.cache
def sources() -> dict[str, str]:
    """Gives what the short names of sources stand for."""
    return _data()["sources"]


@functools.cache
def published() -> tuple[Record, ...]:
    """Reads all published numbers, one record for each model and metric."""
    data, records = _data(), []
    keys = {field.name for field in dataclasses.fields(Protocol)}
    for row in data["records"]:
        given = data["protocols"][row["protocol"]] | {k: row[k] for k in keys & row.keys()}
        unverified = row.get("unverified", ())
        for metric, value in row["values"].items():
            records.append(
                Record(
                    row["model"],
                    metric,
                    value,
                    Protocol(**given),
                    row.get("parameters", ""),
                    tuple(row["sources"]),
                    metric not in unverified,
                    tuple(field for field in unverified if field in keys),
                )
            )
    return tuple(records)


def of_model(model: str) -> list[Record]:
    """Gives all that is published of a model. Raises UserError for one that is not there."""
    found = [record for record in published() if record.model == model]
    if not found:
        known = list(dict.fromkeys(record.model for record in published()))
        hint = (
            did_you_mean(model, known) or "the names are in imgen/evaluation/results/records.json"
        )
        raise UserError(f"no published numbers of {model!r}; {hint}")
    return found


def differences(ours: Protocol, theirs: Protocol) -> dict[str, tuple[Any, Any]]:
    """Gives the fields that `theirs` states and that are not the same in `ours`: {field: (ours, theirs)}."""
    pairs = {
        f.name: (getattr(ours, f.name), getattr(theirs, f.name)) for f in dataclasses.fields(ours)
    }
    return {name: (a, b) for name, (a, b) in pairs.items() if b is not None and a != b}


def comparable(metric: str, protocol: Protocol) -> list[tuple[Record, list[str]]]:
    """Gives the published values of a metric whose protocol differs in nothing that is known, smallest first.

    Network, resize, reference and n must be known of both; what else the source does not state, or is not
    verified, comes with the record as a list of fields. The protocols are equal where that is empty.
    """
    found = []
    for record in published():
        theirs = dataclasses.asdict(record.protocol)
        if (
            record.metric != metric
            or any(theirs[field] is None for field in NEEDED)
            or differences(protocol, record.protocol)
        ):
            continue
        ours = dataclasses.asdict(protocol)
        unstated = [
            f for f in theirs
            if f in record.unverified or theirs[f] is None and ours[f] is not None
        ]  # fmt: skip
        found.append((record, unstated))
    return sorted(found, key=lambda pair: pair[0].value)


def result(
    metric: str, value: float, protocol: Protocol, seconds: float, images_per_second: float
) -> dict[str, Any]:
    """Gives a result as a JSON object: its name, its protocol, and published values.

    "published": those of an equal protocol; "published_partly": those that are equal in all that their source
    states, with the fields that are "unstated" there.
    """
    name, metric = protocol.name(metric), protocol.metric(metric)
    rows: dict[str, list] = {"published": [], "published_partly": []}
    for record, unstated in comparable(metric, protocol):
        row = {
            "model": record.model,
            "value": record.value,
            "sources": list(record.sources),
            "verified": record.verified,
        }
        if unstated:
            rows["published_partly"].append({**row, "unstated": unstated})
        else:
            rows["published"].append(row)
    return {
        "name": name,
        "metric": metric,
        "value": value,
        "protocol": dataclasses.asdict(protocol),
        "seconds": round(seconds, 3),
        "images_per_second": round(images_per_second, 3),
        **rows,
    }


def _data() -> dict[str, Any]:
    return json.loads(
        resources.files("imgen.evaluation.results").joinpath("records.json").read_text("utf-8")
    )
