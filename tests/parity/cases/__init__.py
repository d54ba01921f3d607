"""Case name -> the test that reads its golden files."""

import importlib
import pkgutil

CASES = {}
for _module in pkgutil.iter_modules(__path__):
    CASES |= importlib.import_module(f"{__name__}.{_module.name}").CASES
