"""Config files, changes to them on the command line, and constructors called with what they say."""

from imgen.config.files import (
    choose,
    from_json,
    load_config,
    plain,
    read_config,
    to_json,
    write_config,
)
from imgen.config.overrides import OVERRIDE, override
from imgen.config.resume import check_resume, check_same

__all__ = [
    "OVERRIDE",
    "check_resume",
    "check_same",
    "choose",
    "from_json",
    "load_config",
    "override",
    "plain",
    "read_config",
    "to_json",
    "write_config",
]
