"""What a check of `miro-jax doctor` returns."""

import dataclasses

OK, WARNING, FAILED = "OK", "WARN", "FAIL"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
      name: what. state: OK, WARNING (works, not as well as it could) or FAILED.
      text: what was found, and after a warning or a failure what to do.
    """

    name: str
    state: str
    text: str
