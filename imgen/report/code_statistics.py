"""Statistics of codes as one HTML page with tables and charts (`imgen.analyze`)."""

from html import escape
from pathlib import Path

import numpy as np

from imgen.report import charts as plot
from imgen.report.run_page import CSS

MOST_POINTS = 50  # of a curve: on a logarithmic axis no more can be told apart
CAUTION = (
    "A number of two or more codes in a row depends on how many were counted (tokens) and on the order in "
    "which a grid is read; the column of shuffled codes, the same in random order, says what sample size "
    "alone gives. Codes that never occur are no part of a fit."
)


def write(path: Path, result: dict, curves: dict) -> None:
    """The page, which needs no other file. result: as in stats.json. curves: of `token_report.analyse`."""
    size = f"{result['size']} bits" if result["kind"] == "bits" else f"{result['size']:,} codes"
    title = f"Codes of {result['source']}, split {result['split']}"
    facts = (
        f"{result['images']:,} images, {result['tokens']:,} tokens on a grid of "
        f"{' x '.join(map(str, result['grid']))} over {size}, read by {result['scan']}; images in the random "
        f"order of seed {result['seed']}."
    )
    body = [f"<h1>{escape(title)}</h1><p>{escape(facts)}</p><p>{CAUTION}</p>"]
    body.append(f'<div class="charts">{"".join(charts(result, curves))}</div>')
    body.append("<h2>Codes</h2>" + table(result["codes"], result["shuffled"]))
    if "neighbours" in result:
        body.append("<h2>Neighbours on the grid</h2>")
        for where in ("right", "below"):
            mixed = result["neighbours"]["shuffled"][where]
            body.append(f"<p>{where}</p>" + table(result["neighbours"][where], mixed))
    if "bits" in result:
        body.append("<h2>Bits</h2><p>Shuffled: each bit in a random order of its own.</p>")
        body.append(table(result["bits"], result["bits"]["shuffled"]))
    for name, found in result.get("granularity", {}).items():
        body.append(f"<h2>Segments: {escape(name)}</h2><p>Shuffled: labels in random order.</p>")
        body.append(table(found, found["permuted"]))
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{CSS} td, th {{ padding: 0 .8rem; text-align: right; }}"
        f" td:first-child {{ text-align: left; }}</style></head><body>{''.join(body)}</body></html>\n"
    )


def table(values: dict, control: dict) -> str:
    """Names, values and those of the control; lists and groups are left to the charts."""

    def cell(value) -> str:
        return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"

    rows = [
        f"<tr><td>{escape(name)}</td><td>{cell(value)}</td><td>{cell(control.get(name))}</td></tr>"
        for name, value in values.items()
        if not isinstance(value, list | dict)
    ]
    return f"<table><tr><th></th><th>codes</th><th>shuffled</th></tr>{''.join(rows)}</table>"


def charts(result: dict, curves: dict) -> list[str]:
    seen = curves["distinct_after_image"]
    digits = list(range(1, 10))
    expected = np.log10(1 + 1 / np.arange(1, 10)).tolist()
    found = []
    for n in (name for name in curves["counts"] if name.isdigit()):
        both = {"codes": curves["counts"][n], "shuffled": curves["counts"].get(f"{n} shuffled")}
        series = [(k, *logarithmic(sizes)) for k, sizes in both.items() if sizes is not None]
        title = f"counts over log10 rank, n = {n}"
        found.append(plot.chart(title, series, log=True, values=False))
    found += [
        plot.chart(
            "codes seen over log10 images", [("codes", *logarithmic(seen))], log=True, values=False
        ),
        plot.chart(
            "leading digits of counts",
            [("codes", digits, result["codes"]["benford_digits"]), ("Benford", digits, expected)],
            values=False,
        ),
    ]
    if "bits" in result:
        places = list(range(result["size"]))
        for name in ("bit_mean", "bit_entropy"):
            series = [("bits", places, result["bits"][name])]
            found.append(plot.chart(name.replace("_", " "), series, values=False))
    return found


def logarithmic(values: np.ndarray) -> tuple[list[float], list[float]]:
    """log10 of the places 1, 2, ... and the values there, at places that are evenly apart so."""
    places = np.unique(np.geomspace(1, len(values), MOST_POINTS).round().astype(np.int64))
    return np.log10(places).tolist(), values[places - 1].tolist()
