"""What the host takes for a training step, apart from its device: records, arguments, results, log.

    python benchmarks/host_step.py                              # configs/base.py, on a CPU
    python benchmarks/host_step.py --records=runs/base/records  # over records that are there

The loop runs as in training, but its program returns the state that it was given. A device whose
step takes less than these milliseconds waits for Python.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import timing
from configs.base import get_config
from miro_jax import annotate
from miro_jax.report.metric_lines import read_metrics
from miro_jax.train import ahead, components, loop


class Unchanged:
    """In place of `ahead.Ahead`: a program that returns the state as it is, donated like any."""

    seconds = 0.0

    def __init__(self):
        def step(leaves: list, batch: dict, empty_tokens: Any) -> tuple[list, dict]:
            total = batch["weight"].sum()
            return leaves, dict.fromkeys(("loss", "grad_norm"), total)

        self._step = jax.jit(step, donate_argnums=0)

    def is_ready(self, seconds: float) -> bool:
        return True

    def __call__(self, *arguments: Any) -> tuple[list, dict]:
        return self._step(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", default="", help="of configs/base.py; none makes them")
    parser.add_argument("--steps", type=int, default=1500, help="steps of the run (%(default)s)")
    args = parser.parse_args()
    timing.wait_for_turn()
    config = get_config()
    config.train.num_steps = config.train.checkpoint_every_steps = args.steps
    config.train.sample_every_steps, config.train.checkpoint_every_seconds = 0, 0.0
    config.optim.warmup_steps = 0
    with tempfile.TemporaryDirectory() as folder:
        config.data.records = args.records or f"{folder}/records"
        if not args.records:
            annotate.run(config, folder)
        parts = components.build_components(config)
        workdir = Path(folder, "run")
        loop.run(config, workdir, lambda *_: None, begun=ahead.Begun(parts, Unchanged()))
        lines = [line for line in read_metrics(workdir) if "images_per_second" in line]
    rate, wait = (
        statistics.median(line[name] for line in lines)
        for name in ("images_per_second", "input_share")
    )
    milliseconds = 1e3 * config.train.batch_size / rate
    timing.emit("host step/base", ms=milliseconds, images_per_second=rate, input_share=wait)


if __name__ == "__main__":
    main()
