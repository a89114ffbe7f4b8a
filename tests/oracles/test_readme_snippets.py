"""The Python of the authors' README runs here, unchanged apart from the import."""

import importlib.metadata
import re

import numpy as np
import pytest
import torch
from PIL import Image

from miro_jax.pretrained.weights.official import RELEASE_NAMES
from miro_jax.rewards.names import RELEASED_REWARDS
from tests import sampling

ONLY = "clip aesthetic image-reward pickscore hpsv2 vqa sciscore".split()


def snippets() -> list[str]:
    """The code blocks of the installed package's README that call Python, but one-line lists."""
    text = importlib.metadata.metadata("miro-t2i").get_payload()
    return [code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "ipe" in code]


@pytest.mark.slow
def test_the_snippets_of_the_readme_run(tmp_path, monkeypatch):
    """The hub's names are folders here, of tiny networks; there is no CUDA, so that is replaced."""
    monkeypatch.chdir(tmp_path)
    main = tmp_path / "nicolas-dufour" / "miro"
    sampling.save_tiny(main, RELEASED_REWARDS)
    ablations = tmp_path / "nicolas-dufour" / "miro-ablations"
    sampling.save_tiny(ablations / "miro-no-clip", RELEASED_REWARDS[1:])
    for word, name in zip(ONLY, RELEASED_REWARDS, strict=True):
        sampling.save_tiny(ablations / f"miro-only-{word}", (name,))
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: generator("cpu"))
    found, names = snippets(), {}
    assert len(found) >= 4 and any("manual_seed" in code for code in found)
    with pytest.warns(UserWarning, match="stay on"):
        for code in found:
            first = names.get("pipe")
            exec(code.replace("from miro import", "from miro_jax import"), names)
            names["pipe"] = first or names["pipe"]  # later blocks mean that of the first one
    assert len(names["images"]) == 1 and isinstance(names["images"][0], Image.Image)
    assert len(list(tmp_path.glob("out_*.png"))) == 4
    assert names["clip_only"].coherence_keys == (RELEASE_NAMES["clip"],)
    made = names["results"]
    assert len(made) == 7 and all(isinstance(image, Image.Image) for image in made.values())
    assert np.asarray(made["miro-only-vqa"]).std() > 0
