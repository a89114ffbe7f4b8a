"""Whether the packages of this environment fit together: their own bounds, and known breaks."""

import importlib.metadata
from collections.abc import Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from miro_jax.cli.finding import FAILED, OK, WARNING, Finding

# (package, versions of it, other package, versions of it, remedy): what breaks without their
# bounds telling.
BREAKS = (
    ("flax", "<0.12.12", "jax", ">=0.11.1", "pip install 'flax>=0.12.12'"),
    ("flax", ">=0.12.12", "jax", "<0.11.1", "pip install 'flax<0.12.12'"),
)
# JAX drops a plugin of another version, and computes on the CPU. The libtpu that goes with jax
# stands in its own bounds, under the extra "tpu".
PLUGINS = ("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt")
ROOT = "miro_jax"


def version(name: str) -> str:
    """Return the version of a package, "" where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check(packages: Sequence[str]) -> Finding:
    """Return whether packages fit together, by their own bounds and those of this package."""
    wrong = [text for name in (ROOT, *packages) for text in _unmet(name)]
    for name, versions, other, others, remedy in BREAKS:
        if _within(version(name), versions) and _within(version(other), others):
            pair = f"{name} {version(name)} with {other} {version(other)}"
            wrong.append(f"{pair} breaks: {remedy}")
    if wrong:
        return Finding("versions", FAILED, "; ".join(dict.fromkeys(wrong)))
    late = [n for n in PLUGINS if version(n) and version(n) != version("jaxlib")]
    if unfit := _unmet("jax", "tpu", ("libtpu",)):
        return Finding("versions", WARNING, "; ".join(unfit))
    if late:
        text = f"{', '.join(f'{n} {version(n)}' for n in late)} beside jaxlib "
        text += f"{version('jaxlib')}: pip install -U 'miro_jax[cuda12]', or cuda13"
        return Finding("versions", WARNING, text)
    return Finding("versions", OK, "they fit together")


def _within(found: str, versions: str) -> bool:
    return bool(found) and SpecifierSet(versions).contains(found, prereleases=True)


def _unmet(name: str, extra: str = "", optional: Sequence[str] = ()) -> list[str]:
    """What a package asks of others, and does not get; `optional` ones may be missing."""
    unmet = []
    for line in _bounds(name):
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        found = version(wanted.name)
        if optional and (wanted.name not in optional or not found):
            continue
        if not found:
            unmet.append(f"{name} needs {wanted.name}: pip install {wanted.name}")
        elif not wanted.specifier.contains(found, prereleases=True):
            unmet.append(
                f"{name} needs {wanted.name}{wanted.specifier}, there is {found}: "
                f"pip install '{wanted.name}{wanted.specifier}'"
            )
    return unmet


def _bounds(name: str) -> Sequence[str]:
    try:
        return importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return ()
