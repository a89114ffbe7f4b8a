"""Write where the repository is published into the notebooks: into badges and first cells.

    python notebooks/address.py OWNER/NAME              # on GitHub, branch main
    python notebooks/address.py OWNER/NAME --branch=v1

Before that a badge opens Colab alone, and the first cell wants a clone or `MIRO_JAX_ROOT`. Only
these two places change; a second call changes them again.
"""

import argparse
import re
from pathlib import Path

FOLDER = Path(__file__).parent
BADGE = re.compile(r"(badge\.svg\)\])\(https://colab\.research\.google\.com/[^)]*\)")
ROOT = re.compile(r'(os\.environ\.get\(\\"MIRO_JAX_ROOT\\", )\\"[^"\\]*\\"')


def write_address(text: str, name: str, repository: str, branch: str) -> str:
    """Return the JSON of a notebook with the address in it.

    Args:
      text: of the file. name: of the file. repository: OWNER/NAME. branch: or tag.

    Raises:
      ValueError: it has no badge, or no cell that installs.
    """
    page = f"https://colab.research.google.com/github/{repository}/blob/{branch}/notebooks/{name}"
    source = f"git+https://github.com/{repository}@{branch}"
    text, badges = BADGE.subn(rf"\1({page})", text)
    text, roots = ROOT.subn(rf'\1\\"{source}\\"', text)
    if (badges, roots) != (1, 1):
        raise ValueError(
            f"{name} must have one badge and one cell that installs; got {badges} and {roots}."
        )
    return text


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", metavar="OWNER/NAME", help="on GitHub")
    parser.add_argument("--branch", default="main", help="or tag (default main)")
    flags = parser.parse_args()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", flags.repository):
        parser.error(f"the repository must be OWNER/NAME; got {flags.repository!r}")
    if not re.fullmatch(r"[\w./-]+", flags.branch):
        parser.error(f"--branch must be a branch or a tag; got {flags.branch!r}")
    for path in sorted(FOLDER.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        changed = write_address(text, path.name, flags.repository, flags.branch)
        path.write_text(changed, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
