"""A config's values that are None because the data says them."""

from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from imgen.config import plain
from imgen.data import make_source
from imgen.data.found import Found, look_at

# Of config.data: with None, what the training split shows.
OF_DATA = ("image_size", "crop", "class_names")


def from_data(settings: FrozenConfigDict) -> FrozenConfigDict:
    """Returns the config with what it leaves to the data: `data.image_size`, `data.crop`, `data.class_names`,
    and the conditioning's `num_classes` and `name`, "class" or, where there are no classes, "none".

    The data is opened only where one of these is None. Raises UserError for data that can't be opened.
    """
    data = plain(settings.get("data", {}))
    conditioning = plain(settings.get("generator", None) or {}).get("conditioning")
    asks = conditioning is not None and None in (
        conditioning.get("name", ""),
        conditioning.get("num_classes", 0),
    )
    if not asks and all(data.get(key, "") is not None for key in OF_DATA):
        return settings
    train = {k: v for k, v in data["train"].items() if k not in ("num_examples", "teacher")}
    found = look_at(make_source(**{**data["source"], **train}))
    filled = ConfigDict(settings.to_dict())
    with filled.ignore_type():
        for key in OF_DATA:
            if key in data and data[key] is None:
                value = getattr(found, key)
                filled.data[key] = () if value is None else value  # no classes are known to be none
        if asks:
            filled.generator.conditioning = _conditioning(conditioning, found)
    return FrozenConfigDict(filled)


def _conditioning(settings: dict[str, Any], found: Found) -> dict[str, Any]:
    name = settings.get("name", "class") or ("class" if found.num_classes else "none")
    settings = {**settings, "name": name, "num_classes": found.num_classes}
    if name == "none":
        del settings["num_classes"]
    return settings
