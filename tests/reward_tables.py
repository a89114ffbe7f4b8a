"""The tables of docs/rewards.md, made from the cards of the rewards.

python -m tests.reward_tables      # rewrites them
"""

import pathlib
import re

from miro_jax.rewards import CARDS

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "rewards.md"
COMMAND = "python -m tests.reward_tables"
WORDS = 40  # of the caption that a pair is counted with


def scores() -> str:
    """A row for each identity: what it judges, on which scale, from which weights."""
    head = (
        "identity | judges | needs a caption | raw scale | stored scale | weights | "
        "licence of the weights"
    )
    rows = []
    for card in CARDS.values():
        names = dict.fromkeys(
            f"**{one.name}**" if one.commercial is False else one.name for one in card.licences
        )
        needs = f"yes, the {card.synthetic_form} synthetic one" if card.needs_caption else "no"
        rows.append(
            f"[`{card.identity}`](#{card.name}) | {card.judges} | {needs} | {card.scale} | "
            f"{card.stored} | `{card.weights}` | {', '.join(names)}"
        )
    return _table(head, rows)


def costs() -> str:
    """A row for each identity: how images are prepared, and how large and costly it is."""
    head = (
        "identity | image | parameters, millions | GFLOP an image | GFLOP a caption of "
        f"{WORDS} words | MB of work a row"
    )
    return _table(
        head,
        [
            f"`{card.identity}` | {card.preprocessing} | {card.parameters / 1e6:,.0f} | "
            f"{card.image_gflop:.0f} | {card.text.gflop(WORDS):.0f} | {card.work_mb:g}"
            for card in CARDS.values()
        ],
    )


def _table(head: str, rows: list[str]) -> str:
    line = " | ".join(["---"] * (head.count("|") + 1))
    return "\n".join(f"| {row} |" for row in (head, line, *rows))


def rewritten(text: str) -> str:
    """The page with its tables made anew."""
    for name, make in (("scores", scores), ("costs", costs)):
        pattern = rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)"
        text, count = re.subn(
            pattern, lambda m, make=make: f"{m[1]}\n{make()}\n\n{m[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{PAGE} must have one table from <!-- {name}: --> to <!-- end -->")
    return text


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")
