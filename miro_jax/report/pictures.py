"""The section of pictures: the same prompts at rising levels of all rewards."""

import html

from miro_jax.report.facts import Facts
from miro_jax.report.page import Section, figure, missing, pictures


def gallery(facts: Facts) -> Section:
    """Show the pictures of the gallery evaluator."""
    found = facts.result("gallery")
    lead = (
        "The same prompts and the same noise, with every reward asked for at the level above the "
        "column."
    )
    if found is None:
        return Section("pictures", "Pictures", lead, missing("gallery"))
    levels = found["levels"]
    if not levels:
        lead = "Pictures of the prompts; this network takes no reward targets."
    heads = "".join(
        f'<div class="column">{level:g}{_pole(level, levels)}</div>' for level in levels
    )
    rows = []
    for prompt, files in zip(found["prompts"], found["files"], strict=True):
        cells = []
        for column, file in enumerate(files):
            asked = f", all rewards asked at {levels[column]:g}" if levels else ""
            alt = f"{pictures(found['num_images'])} of {prompt!r}{asked}"
            cells.append(f'<img src="{facts.picture(file)}" alt="{html.escape(alt)}">')
        rows.append(f'<div class="prompt">{html.escape(prompt)}</div>{"".join(cells)}')
    body = (
        f'<div class="gallery" style="--columns:{max(len(levels), 1)}">'
        + (f'<div class="corner">target level</div>{heads}' if levels else "")
        + "".join(rows)
        + "</div>"
    )
    caption = (
        f"{pictures(found['num_images'])} a cell, guidance {found['guidance_scale']:g}, step "
        f"{facts.step:,}. Negative branch: all rewards at 0 and the configured negative prompt."
    )
    return Section("pictures", "Pictures", lead, figure(body, caption))


def _pole(level: float, levels: list[float]) -> str:
    """Name the ends of the scale."""
    word = {0.0: "worst", 1.0: "best"}.get(level) if len(levels) > 1 else None
    return f" <span>{word}</span>" if word else ""
