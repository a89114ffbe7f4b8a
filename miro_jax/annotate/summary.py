"""What is there when a run ends, in a line."""

from __future__ import annotations

from miro_jax.annotate import coverage
from miro_jax.annotate.plan import Plan
from miro_jax.annotate.publish import is_done
from miro_jax.data.records.manifest import Manifest


def summarize(todo: Plan, manifest: Manifest | None, was_complete: bool = False) -> str:
    """Say what a run has made, or what is left to do.

    Args:
        manifest: of a complete set, see `execute`.
        was_complete: when the run began.
    """
    if manifest is not None:
        lost = coverage.describe_lost(coverage.read_lost(todo.folder))
        return (
            f"{manifest.num_records} records, {manifest.num_failures} failures"
            f"{f', {lost}' if lost else ''}{', complete already' if was_complete else ''}: "
            f"{todo.folder}"
        )
    waiting = [piece.number for piece in todo.pieces if not is_done(todo.folder, piece.number)]
    mine, everyone = len(todo.pieces), len(todo.source.pieces)
    done = f"published: all {mine} {'pieces' if mine == everyone else 'pieces of this worker'}"
    if waiting:
        done = f"published: {mine - len(waiting)} of {mine} pieces; the others wait for "
        done += _missing_groups(todo, waiting[0])
    when = f"when all {everyone} are, finish" if waiting or mine < everyone else "finish"
    return f"{done}; {when} with --merge, or without a choice of pieces and stages: {todo.folder}"


def _missing_groups(todo: Plan, piece: int) -> str:
    """Say which groups a piece waits for."""
    said = []
    for group in todo.toolbox.groups:
        if not todo.assembly.is_whole(piece, group.name):
            others = todo.assembly.batch_sizes(piece, group.name) - {todo.batch_size}
            made = f" (made in batches of {others.pop()}; all need the same)" if others else ""
            said.append(group.name + made)
    return f"the stages {', '.join(said)}"
