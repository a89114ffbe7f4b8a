"""An environment in which some packages are not installed."""

import sys
from importlib.machinery import PathFinder


def hide(*packages: str) -> None:
    """Let imports of packages fail in this process, as where they are not installed."""

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            if fullname.split(".")[0] in packages:
                return None
            return super().find_spec(fullname, path, target)

    sys.meta_path[:] = [
        Finder if isinstance(f, type) and issubclass(f, PathFinder) else f for f in sys.meta_path
    ]
