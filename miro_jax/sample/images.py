"""`images`: pictures of prompts, with one set of levels for all or a set for each prompt."""

from miro_jax.sample.request import Asked
from miro_jax.sample.sheets import Column, Sheet, describe_levels, make_sheet

_PER_LINE = 8


def sheet(asked: Asked) -> Sheet:
    """Lay out the pictures of prompts, those of a prompt in a row."""

    def columns(prompt):
        levels = (asked.positive(prompt), asked.negative(prompt))
        return [Column("", "", *levels, asked.settings.guidance_scale)]

    alike = not any(prompt.targets for prompt in asked.prompts)
    told = describe_levels(asked.positive(asked.prompts[0])) if alike else "levels by prompt"
    title = f"{told}; {asked.settings.describe()}"
    return make_sheet(asked, columns, title, min(asked.num_images, _PER_LINE))
