"""Scores of candidates, one JSON line each, appended batch by batch.

A kill can leave the last line half written. It is cut off when the file is opened again, so that
the file ends up the same as if nothing had happened.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = "scores.jsonl"


class Scores:
    """The scored candidates of a folder, by (prompt index, sample index).

    Args:
      path: of the file; made where it is missing.

    Raises:
      ValueError: a line that is not the last is no JSON.
    """

    def __init__(self, path: Path):
        self.path, self._found = Path(path), {}
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._note(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"line {number} of {self.path} is damaged: {error}. Delete the folder."
                ) from error
        with self.path.open("ab") as file:
            file.truncate(len(whole))

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, place: tuple[int, int]) -> bool:
        return place in self._found

    def of_prompt(self, prompt_index: int) -> list[float]:
        """Return the scores of a prompt's candidates, those that are there from the first on."""
        found: list[float] = []
        while (prompt_index, len(found)) in self._found:
            found.append(self._found[prompt_index, len(found)])
        return found

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Add lines with `prompt_index`, `sample_index` and `score`, and flush them to the disk."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with self.path.open("ab") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        for line in lines:
            self._note(line)

    def _note(self, line: dict[str, Any]) -> None:
        self._found[line["prompt_index"], line["sample_index"]] = float(line["score"])
