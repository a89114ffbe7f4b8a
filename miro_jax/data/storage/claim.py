"""Whose folder is this: one request fills a folder, in any number of starts, and no other one does.

    manifest.partial.json    the request, written before the first file of the folder
    manifest.json            what was made, with the request in it, written last: the folder is
                             complete

A request is a flat JSON object. The same request resumes; one that differs is refused in a text
that names the key and both values. What only a digest can compare, such as the content of a file,
is an object of a `digest` and of what a reader knows it by: {"name": "a.csv", "rows": 9, "digest":
"3fab..."}. Two such objects are equal if their digests are, and a text shows the rest. Several
processes may fill a folder that allows it (`begin` is create-if-absent, in object stores too); one
that must have a single writer is also locked, see `lease.locked`.
"""

import contextlib
import dataclasses
import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

from miro_jax.data.printable import some
from miro_jax.data.storage.base import Damaged, Folder
from miro_jax.data.storage.files import brief, to_json, to_sealed_json

MANIFEST_NAME, PARTIAL_NAME = "manifest.json", "manifest.partial.json"
_ABSENT = (FileNotFoundError, NotADirectoryError)


class AnotherRequest(ValueError):
    """A folder is filled, or being filled, by a request that differs."""


def _same_values(_: str, present: Any, requested: Any) -> bool:
    return same(present, requested)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """The claim of one request on a folder.

    folder: what is claimed.
    manifest, partial: names of the two files.
    request_of: content of a finished manifest -> its request.
    partial_request_of: the same of the partial manifest, where `begin` is given its content.
    matches: (key, present, requested) -> whether the two values are compatible.
    schema: of the finished manifest, see `data.json_file`.
    scratch: folder below for what is not finished, see `Folder.scratch`.
    subject: what is claimed, for messages; the folder by default. remedy: what to do about it.
    """

    folder: Folder
    manifest: str = MANIFEST_NAME
    partial: str = PARTIAL_NAME
    request_of: Callable[[Any], Mapping[str, Any]] = operator.itemgetter("request")
    partial_request_of: Callable[[Any], Mapping[str, Any]] = dict
    matches: Callable[[str, Any, Any], bool] = _same_values
    schema: Any = dict
    scratch: str = ""
    subject: str = ""
    remedy: str = "Name another folder, or delete this one."

    def present(self) -> dict[str, Any] | None:
        """Return the request that fills or filled the folder; None where nothing says so.

        Raises:
          Damaged: a manifest holds something else.
        """
        # The manifest comes before the partial one goes: this order could miss both, hence twice.
        for _ in range(2):
            with contextlib.suppress(*_ABSENT):
                return dict(self.request_of(self._read(self.manifest, self.schema)))
            with contextlib.suppress(*_ABSENT):
                return dict(self.partial_request_of(self._read(self.partial, dict)))
        return None

    def _read(self, name: str, schema: Any) -> Any:
        try:
            return self.folder.read_json(name, schema)
        except Damaged as error:
            raise Damaged(f"{error} {self.remedy}") from error

    def check(self, request: Mapping[str, Any]) -> None:
        """Raise AnotherRequest where the folder belongs to one that differs.

        Args:
          request: all of it, or what is known so far. Keys that the folder does not have are not
            compared: what was written before need not know all that is requested today.
        """
        present = self.present()
        if present is None:
            return
        request = json.loads(to_json(dict(request)))  # as it would be read back
        differing = [
            key
            for key in request
            if key in present and not self.matches(key, present[key], request[key])
        ]
        if differing:
            details = "; ".join(describe_difference(k, present[k], request[k]) for k in differing)
            raise AnotherRequest(
                f"{self.subject or self.folder} belongs to another request: {details}. "
                f"{self.remedy}"
            )

    def begin(
        self,
        request: Mapping[str, Any],
        partial: Mapping[str, Any] | None = None,
        again: bool = False,
    ) -> None:
        """Write the request, unless the folder has one; check it against the one that is there.

        Args:
          request: all of it.
          partial: content of the partial manifest, where that is more than the request.
          again: write it also beside a manifest, for a folder that was complete and lacks a file
            now.

        Raises:
          AnotherRequest: the folder belongs to one, also of a process that was quicker.
        """
        if again or not self.folder.exists(self.manifest):
            content = to_sealed_json(dict(partial or request))
            self.folder.claim(self.partial, content, self.scratch)
        self.check(request)

    def finish(self, manifest: bytes) -> None:
        """Write the manifest, which makes the folder complete; the partial one goes."""
        self.folder.write(self.manifest, manifest)
        self.folder.remove(self.partial)


def same(present: Any, requested: Any) -> bool:
    """Return whether two values are equal, of objects with a digest whether their digests are.

    A bare digest, as older requests have it, equals an object with that digest.
    """
    if isinstance(requested, Mapping) and "digest" in requested:
        if not isinstance(present, Mapping):
            return present == requested["digest"]
        shared = (requested.keys() & present.keys()) - {"name"}  # files may be moved
        return all(same(present[key], requested[key]) for key in shared)
    if isinstance(requested, Mapping) and isinstance(present, Mapping):
        equal_keys = requested.keys() == present.keys()
        return equal_keys and all(same(present[key], requested[key]) for key in requested)
    if isinstance(requested, list) and isinstance(present, list):
        return len(present) == len(requested) and all(map(same, present, requested))
    return present == requested


def describe_difference(key: str, present: Any, requested: Any) -> str:
    """Return in what two values of a key differ; for objects, in which of their keys."""
    if isinstance(requested, list) and isinstance(present, list) and len(present) == len(requested):
        if any(isinstance(one, Mapping) for one in requested):  # as a mapping by position
            present, requested = dict(enumerate(present)), dict(enumerate(requested))
    if isinstance(requested, Mapping) and "digest" in requested:
        return _describe_content(key, present, requested)
    if not isinstance(present, Mapping) or not isinstance(requested, Mapping):
        return f"{key} is {_readable(present)} there, {_readable(requested)} here"
    changed = [k for k in requested if k in present and not same(present[k], requested[k])]
    parts = [describe_difference(f"{key}.{k}", present[k], requested[k]) for k in changed[:3]]
    parts += [f"{len(changed) - 3} more of {key} differ"] if len(changed) > 3 else []
    for where, names in (
        ("there", [k for k in present if k not in requested]),
        ("here", [k for k in requested if k not in present]),
    ):
        if names:
            parts.append(f"{key} has only {where}: {some(names)}")
    return "; ".join(parts)


def _describe_content(key: str, present: Any, requested: Mapping[str, Any]) -> str:
    """Describe the difference of objects of which a digest tells whether they are equal."""
    known = present if isinstance(present, Mapping) else {}
    shared = [k for k in requested if k in known and k not in ("digest", "name")]
    changed = [k for k in shared if not same(known[k], requested[k])]
    if present is not None and not changed:
        return f"{key} has other content there than here, {_readable(requested)}"
    if not changed:
        return f"{key} is {_readable(present)} there, {_readable(requested)} here"
    return "; ".join(describe_difference(f"{key}.{k}", known[k], requested[k]) for k in changed)


def _readable(value: Any) -> str:
    """Return a value as short JSON without its digests."""
    if isinstance(value, Mapping):
        value = {key: one for key, one in value.items() if key != "digest"}
    return brief(value)
