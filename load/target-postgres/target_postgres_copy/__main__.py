"""The stock target's command line."""

import gc
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class ImportedWhenUsed(ModuleType):
    """Replaces a module until it is used."""

    def __getattr__(self, name: str) -> Any:
        """Import the module, and return its attribute of this name."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def main() -> None:
    """Run the target."""
    # Slow to import, and needed for SSH tunnels only.
    sys.modules.setdefault("paramiko", ImportedWhenUsed("paramiko"))
    gc.disable()  # imports leave no garbage; the search takes a seventh of a short run
    from target_postgres_copy.target import CopyTarget

    gc.freeze()
    gc.enable()

    CopyTarget.cli()


if __name__ == "__main__":
    main()
