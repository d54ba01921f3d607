"""Config files, changes to them on the command line, and constructors called with what they say."""

from imgen.config.files import (
    OVERRIDE,
    check_resume,
    choose,
    from_json,
    load_config,
    override,
    plain,
    read_config,
    to_json,
    write_config,
)

__all__ = [
    "OVERRIDE",
    "check_resume",
    "choose",
    "from_json",
    "load_config",
    "override",
    "plain",
    "read_config",
    "to_json",
    "write_config",
]
