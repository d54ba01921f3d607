"""The page of `imgen.analyze`: statistics of codes as tables and charts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from imgen.report.charts import chart
from imgen.report.page import Section, drawn, write_page

MOST_POINTS = 50  # of a curve: on a logarithmic axis no more can be told apart
CAUTION = (
    "A number of two or more codes in a row depends on how many were counted (tokens) and on the order in "
    "which a grid is read; the column of shuffled codes, the same in random order, says what sample size "
    "alone gives. Codes that never occur are no part of a fit."
)


def write(path: Path, result: dict, curves: dict) -> None:
    """Writes the page. result: as in stats.json. curves: of `token_report.analyse`."""
    size = f"{result['size']} bits" if result["kind"] == "bits" else f"{result['size']:,} codes"
    title = f"Codes of {result['source']}, split {result['split']}"
    facts = (
        f"{result['images']:,} images, {result['tokens']:,} tokens on a grid of "
        f"{' x '.join(map(str, result['grid']))} over {size}, read by {result['scan']}; images in the random "
        f"order of seed {result['seed']}."
    )
    first = Section(texts=[CAUTION], charts=drawn(charts(result, curves)))
    write_page(path, title, facts, [first, *tables(result)])


def tables(result: dict) -> Iterator[Section]:
    """Yields the sections of tables, one for each group of numbers."""
    yield Section("Codes", tables=[table(result["codes"], result["shuffled"])])
    if near := result.get("neighbours"):
        both = [table(near[where], near["shuffled"][where], where) for where in ("right", "below")]
        yield Section("Neighbours on the grid", tables=both)
    if bits := result.get("bits"):
        how = ["Shuffled: each bit in a random order of its own."]
        yield Section("Bits", how, tables=[table(bits, bits["shuffled"])])
    for name, found in result.get("granularity", {}).items():
        how = ["Shuffled: labels in random order."]
        yield Section(f"Segments: {name}", how, tables=[table(found, found["permuted"])])


def table(values: dict, control: dict, corner: str = "") -> list[list[str]]:
    """Returns rows of names, values and those of the control; lists and groups are left to the charts."""

    def cell(value) -> str:
        return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"

    rows = [
        [name, cell(value), cell(control.get(name))]
        for name, value in values.items()
        if not isinstance(value, list | dict)
    ]
    return [[corner, "codes", "shuffled"], *rows]


def charts(result: dict, curves: dict) -> dict[str, Figure | None]:
    """Returns the charts by name: counts over rank, growth of the vocabulary, leading digits, bits."""
    found, counts = {}, curves["counts"]
    for n in filter(str.isdigit, counts):
        both = {"codes": counts[n], "shuffled": counts.get(f"{n} shuffled")}
        series = [(k, *logarithmic(sizes)) for k, sizes in both.items() if sizes is not None]
        found[f"counts over log10 rank, n = {n}"] = series
    found["codes seen over log10 images"] = [
        ("codes", *logarithmic(curves["distinct_after_image"]))
    ]
    of_log = set(found)
    digits = np.arange(1, 10)
    benford = np.log10(1 + 1 / digits)
    found["leading digits of counts"] = [
        ("codes", digits, result["codes"]["benford_digits"]), ("Benford", digits, benford),
    ]  # fmt: skip
    if "bits" in result:
        for name in ("bit_mean", "bit_entropy"):
            values = result["bits"][name]
            found[name.replace("_", " ")] = [("bits", range(len(values)), values)]
    return {
        title: chart(title, series, log=title in of_log, values=False)
        for title, series in found.items()
    }


def logarithmic(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns log10 of the places 1, 2, ... and the values there, at places that are evenly apart so."""
    places = np.unique(np.geomspace(1, len(values), MOST_POINTS).round().astype(np.int64))
    return np.log10(places), values[places - 1]
