"""What was paid for a run, also before its watcher was started again."""

import fcntl
import json
import pathlib


class Ledger:
    """Seconds that were paid for a run, kept in a file which one process holds.

    Raises:
      ValueError: another process holds it, or it is damaged.
    """

    def __init__(self, path: pathlib.Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.file = path, open(path, "a+", encoding="utf-8")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process watches this run: it holds {path}.") from None
        self.file.seek(0)
        try:
            self.seconds = float(json.loads(self.file.read() or "{}").get("paid_seconds", 0.0))
        except (ValueError, AttributeError, TypeError):
            raise ValueError(f"{path} is damaged; delete it to count hours from 0.") from None

    def add(self, seconds: float) -> None:
        """Count more seconds, and write them down."""
        self.seconds += seconds
        self.file.seek(0)
        self.file.truncate()
        self.file.write(json.dumps({"paid_seconds": self.seconds}))
        self.file.flush()

    def clear(self) -> None:
        """Forget the run: it is complete."""
        self.path.unlink(missing_ok=True)
