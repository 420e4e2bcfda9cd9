"""The command line: the stock target's."""

import gc
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class ImportedWhenUsed(ModuleType):
    """Stands in for a module until something of it is needed."""

    def __getattr__(self, name: str) -> Any:
        """Import the module, and return what it holds under a name."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def main() -> None:
    """Run the target."""
    # Slow to import, and needed for SSH tunnels only.
    sys.modules.setdefault("paramiko", ImportedWhenUsed("paramiko"))
    gc.disable()  # imports leave no garbage, and looking for it takes a seventh of a short run
    from target_postgres_copy.target import CopyTarget

    gc.freeze()
    gc.enable()

    CopyTarget.cli()


if __name__ == "__main__":
    main()
