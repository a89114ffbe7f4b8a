"""Rewards of your own: `FILE.py:Class` in place of a name, without a change of this package.

The class keeps the promises of `rewards.base.Reward`, see docs/add_a_reward.md. Its file is
imported by its path; nothing else in the package imports a file by path. The version of such a
reward ends in a digest of the file, so that another content of the file is another reward.
"""

import contextlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from miro_jax.data.regular_file import digest_regular
from miro_jax.pretrained.weights import hub
from miro_jax.rewards import base, contract
from miro_jax.rewards.names import short_name, split_own

_DIGITS = 8  # of the digest of the file, in the version
_METHODS = ("prepare", "encode", "judge")


def load_class(name: str) -> type:
    """Import the class that `FILE.py:Class` names.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be imported, or has no such class of rewards.
    """
    path, wanted = split_own(name)
    module = _import(Path(path))
    classes = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    }
    rewards = [key for key, cls in classes.items() if not _missing(cls)]
    if wanted in rewards:
        return classes[wanted]
    listed = f"{path} has {', '.join(rewards) or 'none'}"
    if wanted in classes:
        missing = ", ".join(_missing(classes[wanted]))
        raise ValueError(f"{wanted} of {path} must have the methods {missing}.")
    raise ValueError(
        f"a reward of a file must be FILE.py:Class, with a class of that file that has "
        f"{', '.join(_METHODS)}; got {name!r}. {listed}."
    )


def _missing(cls: type) -> list[str]:
    """Return the names of the methods that a class does not define."""
    return [m for m in _METHODS if getattr(cls, m, None) in (None, getattr(base.Judge, m))]


def build(name: str, **arguments: Any) -> base.Reward:
    """Build the reward that `FILE.py:Class` names.

    Raises:
      FileNotFoundError, ValueError: see `load_class`; or it cannot be built, or is no reward.
    """
    made = load_class(name)
    try:
        with _same_folder():
            reward = made(**arguments)
    except hub.OfflineError:  # which says how to name a folder
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{name} must be a class that can be built; got {type(error).__name__}: {error}"
        ) from error
    short, version = short_name(name), getattr(reward, "version", "1")
    if (declared := getattr(reward, "name", short)) != short:
        raise ValueError(
            f"{name}: the attribute name must be {short!r}, the class in small letters; got "
            f"{declared!r}."
        )
    reward.name, reward.version = short, f"{version}-{digest(name)}"
    try:
        contract.check_attributes(reward)
    except contract.BrokenPromise as error:
        raise ValueError(f"{name} must be a reward: {error}") from error
    return reward


def needs_caption(name: str) -> bool:
    """Return whether the reward that `FILE.py:Class` names needs captions; it is not built.

    Raises:
      FileNotFoundError, ValueError: see `load_class`; or the class itself does not say it.
    """
    needs = getattr(load_class(name), "needs_caption", None)
    if not isinstance(needs, bool):
        raise ValueError(
            f"{name} must have needs_caption, True or False, as an attribute of the class: it is "
            f"read before a reward is built. Write it above __init__; got {needs!r}."
        )
    return needs


def digest(name: str) -> str:
    """Return the first digits of the file's SHA-256."""
    return digest_regular(split_own(name)[0])[:_DIGITS]


def _import(path: Path) -> ModuleType:
    """Import a file by its path, once for each content."""
    if not path.is_file():
        start = "" if path.is_absolute() else " Its path counts from the folder you start in."
        raise FileNotFoundError(f"{path}, the file of a reward FILE.py:Class, is missing.{start}")
    name = f"miro_jax_own_{path.stem}_{digest(str(path))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} must be a Python file, FILE.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with _same_folder():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may call sys.exit as its last line
        del sys.modules[name]
        raise ValueError(
            f"{path} must be a Python file that can be imported; got "
            f"{type(error).__name__}: {error}"
        ) from error
    return module


@contextlib.contextmanager
def _same_folder() -> Iterator[None]:
    """Come back to the working directory: paths of the command, as of --out, begin there."""
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it is deleted, and nothing begins there
        yield
        return
    try:
        yield
    finally:
        if os.getcwd() != here:
            os.chdir(here)
