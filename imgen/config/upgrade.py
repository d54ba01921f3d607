"""Old RUN/config.json in today's keys.

Written at 30256eb or before, a config held sampling settings in the model: xAR's solver and interval,
steps of plans and heads. They stand under `train.generator` now.
"""

import copy
from typing import Any


def upgrade(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config in today's keys; what has them already, unchanged. The argument stays as it is."""
    config = copy.deepcopy(config)
    generator = config.get("generator")
    if not isinstance(generator, dict):
        return config
    sampling = _model_settings(generator)
    interval = sampling.pop("interval", None)
    stage = config.get("train", {}).get("generator")
    if not isinstance(stage, dict):
        return config
    if sampling:
        stage["sampling"] = {**sampling, **(stage.get("sampling") or {})}
    guidance = stage.get("guidance")
    if isinstance(guidance, dict) and isinstance(guidance.get("interval"), int | float):
        last = guidance.pop("interval")
        if last >= 0:  # the progress of a plan begins with -1
            guidance["interval"] = (-1.0, float(last))
    if interval is not None:
        stage["guidance"] = {**(guidance or {}), "interval": tuple(interval)}
    return config


def _model_settings(generator: dict[str, Any]) -> dict[str, Any]:
    """Takes what a model no longer has out of its group, and returns it as keys of `sampling`."""
    sampling = {}
    if generator.get("name") == "xar":
        for name in ("steps", "solver"):
            if name in generator:
                sampling[name] = generator.pop(name)
        if "guidance_interval" in generator:
            sampling["interval"] = generator.pop("guidance_interval")
    options = generator.get("plan_options")
    if generator.get("plan") == "masked" and isinstance(options, dict) and "steps" in options:
        sampling["steps"] = options.pop("steps")
        scheme = generator.get("scheme_options") or {}
        generator["scheme_options"] = {"steps": sampling["steps"], **scheme}
    if "decoding" in generator:
        sampling.update(generator.pop("decoding") or {})
    head = generator.get("head_options")
    if isinstance(head, dict):
        for old, new in (("steps", "solver_steps"), ("solver", "solver"), ("shift", "shift")):
            if old in head:
                sampling[new] = head.pop(old)
    return sampling
