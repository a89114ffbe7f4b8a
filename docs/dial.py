"""The dials of a run as one image: level requested against level achieved.

    python docs/dial.py runs/base beauty,colors,objects,cleanliness docs/images/dials.svg

The levels of an image are those that training would have given its scores; the diagonal is a dial
that does exactly what it says. Intervals are those of the run's evaluation.
"""

import pathlib
import sys

from miro_jax.data.json_file import read_json
from miro_jax.data.storage.files import write_atomic
from miro_jax.report.charts import Chart, svg_file, unit_axis


def draw(workdir: pathlib.Path, names: list[str]) -> str:
    """Return the SVG of the dials of the last evaluation of a run."""
    results = [entry["results"] for entry in read_json(workdir / "evaluation.json", list)]
    dials = next((one["dials"] for one in reversed(results) if "dials" in one), None)
    if dials is None or not set(names) <= set(dials["dials"]):
        known = ", ".join(dials["dials"]) if dials else "none: evaluate it with the evaluator dials"
        sys.exit(f"{workdir} must have measured the dials {', '.join(names)}; it has {known}.")
    panels = []
    for name in names:
        x, y = unit_axis(f"{name}: level requested"), unit_axis("level achieved")
        chart, levels = Chart(x, y, width=280, height=220), dials["asked_levels"]
        chart.line([0, 1], [0, 1], "ideal")
        achieved = dials["dials"][name]["level"]
        chart.line(levels, [level["mean"] for level in achieved], "series a")
        chart.points(levels, achieved, "a", [""] * len(levels))
        panels.append(chart.svg(f"Dial of {name}"))
    title = f"Dials of one run, {dials['images_per_level']} images a level"
    return svg_file(title, panels, 280, 220, columns=len(panels))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python docs/dial.py RUN REWARD,REWARD OUT.svg")
    content = draw(pathlib.Path(sys.argv[1]), sys.argv[2].split(","))
    write_atomic(sys.argv[3], content.encode())
