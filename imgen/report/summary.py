"""The newest numbers of a run, as text for the terminal and for the page."""

from tqdm import tqdm

from imgen.report.metrics_log import SPEED_FIELDS


def number(value: float) -> str:
    """1200000 -> "1.2M", 4000 -> "4k", 0.0003 -> "0.0003"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def is_curve(key: str) -> bool:
    """Whether a field of a row is a metric, not the place of the row or the machine's speed."""
    return key not in ("stage", "step", *SPEED_FIELDS)


def summarize(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Returns per stage its last step, seconds and the newest value of each metric, validation first."""

    def rank(item) -> tuple:
        key = item[0]
        return not key.startswith("val/"), not key.endswith("loss"), key

    stages: dict[str, dict] = {}
    for row in rows:
        stages.setdefault(row["stage"], {}).update(row)
    return {
        stage: {
            "steps": last["step"],
            "seconds": last.get("seconds"),
            **{k: v for k, v in sorted(last.items(), key=rank) if is_curve(k)},
        }
        for stage, last in stages.items()
    }


def shown(values: dict[str, float | None]) -> dict[str, str]:
    """Returns one stage of `summarize` as it is shown: names in words, values as short text."""

    def text(key: str, value: float | None) -> str:
        if value is None:
            return "not finite"
        if key == "steps":
            return f"{value:,}"
        return tqdm.format_interval(value) if key == "seconds" else number(value)

    names = {key: "time" if key == "seconds" else key.replace("_", " ") for key in values}
    return {names[key]: text(key, value) for key, value in values.items()}


def summary_text(rows: list[dict]) -> str:
    """Returns the summary for the terminal: one line per number."""
    lines = []
    for stage, values in summarize(rows).items():
        lines += [stage, *(f"  {name:<32} {text}" for name, text in shown(values).items())]
    return "\n".join(lines)
