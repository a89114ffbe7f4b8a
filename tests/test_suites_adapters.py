"""Suites of others: their prompt files in, the folders and indices of their judges out."""

import json

import numpy as np
import pytest
from PIL import Image

from miro_jax import __main__ as entry
from miro_jax.evaluate.suites import adapters, find, table
from tests.scoring import file_bytes


def write_images(folder, suite, samples):
    """Images of a suite in GenEval's layout, each of a shade of its own."""
    for number, prompt in enumerate(suite.prompts):
        inside = folder / f"{number:05d}" / "samples"
        inside.mkdir(parents=True)
        (inside.parent / "metadata.jsonl").write_text(json.dumps({"prompt": prompt.text}))
        for sample in range(samples):
            shade = np.full((16, 16, 3), 10 * number + sample, np.uint8)
            (inside / f"{sample:05d}.png").write_bytes(file_bytes(shade))
    return folder


def hpsv2(path):
    path.mkdir()
    for style in adapters.STYLES:
        (path / f"{style}.json").write_text(json.dumps([f"{style} one", f"{style} two"]))


def genai_bench(path):
    path.write_text(json.dumps({"00001": {"prompt": "b"}, "00000": {"prompt": "a"}}))


def dpg_bench(path):
    path.mkdir()
    (path / "COCO_7.txt").write_text("a long prompt\n")
    (path / "whoops_1.txt").write_text("another")


def t2i_compbench(path):
    path.mkdir()
    (path / "color_val.txt").write_text("a red car\na blue bus\n")
    (path / "shape_val.txt").write_text("a round table\n")


def geneval2(path):
    path.write_text('{"prompt": "four bicycles", "atom_count": 3}\n{"prompt": "a cow"}\n')


def unigenbench(path):
    path.write_text('index,prompt_en,sub_dims\n0,"a cat, asleep",{}\n7,a dog,{}\n')


EXPECTED = {
    hpsv2: ["anime/00000.jpg", "anime/00001.jpg", "concept-art/00000.jpg"],
    genai_bench: ["00000.jpeg", "00001.jpeg"],
    dpg_bench: ["COCO_7.png", "whoops_1.png"],
    t2i_compbench: ["color/samples/a blue bus_000010.png", "color/samples/a blue bus_000011.png"],
    geneval2: ["00000_0.png", "00001_0.png", "image_paths.json"],
    unigenbench: ["0_0.png", "0_1.png", "0_2.png", "0_3.png", "7_0.png"],
}


@pytest.mark.parametrize("write", EXPECTED, ids=lambda write: write.__name__)
def test_each_suite_is_read_and_written_as_its_judge_wants(write, tmp_path, capsys):
    source, name = tmp_path / "prompts", write.__name__
    write(source)
    suite = table.make_suite(f"{name}:{source}")
    images = write_images(tmp_path / "images", suite, suite.samples_per_prompt)
    words = [f"--suite={name}:{source}", f"--export={tmp_path / 'out'}"]
    words += [f"--images-per-prompt={suite.samples_per_prompt}"]
    assert entry.main(["evaluate", str(images), *words]) == 0, capsys.readouterr().err
    made = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")
    )
    expected = EXPECTED[write]
    assert made[: len(expected)] == expected
    assert "exported:" in capsys.readouterr().out


def test_the_images_of_a_prompt_become_a_grid_in_rows(tmp_path):
    dpg_bench(tmp_path / "prompts")
    suite = table.make_suite(f"dpg_bench:{tmp_path / 'prompts'}")
    found = find.find_images(write_images(tmp_path / "images", suite, 4), suite, 4)
    adapters.write_folder("dpg_bench", found, tmp_path / "out")
    grid = np.asarray(Image.open(tmp_path / "out" / "whoops_1.png"))
    assert grid.shape == (32, 32, 3)
    assert grid[::16, ::16, 0].tolist() == [[10, 11], [12, 13]]
    three = find.find_images(tmp_path / "images", suite, 4)
    short = find.Found(three.images[:3], three.layout, 3, (), "")
    with pytest.raises(ValueError, match="A grid needs a square number of images"):
        adapters.write_folder("dpg_bench", short, tmp_path / "other")


def test_an_index_maps_prompts_to_files(tmp_path):
    geneval2(tmp_path / "prompts")
    suite = table.make_suite(f"geneval2:{tmp_path / 'prompts'}")
    found = find.find_images(write_images(tmp_path / "images", suite, 1), suite, 1)
    adapters.write_folder("geneval2", found, tmp_path / "out")
    index = json.loads((tmp_path / "out" / adapters.INDEX).read_text())
    assert index["a cow"] == str(tmp_path / "out" / "00001_0.png")


def test_prompts_do_not_lead_out_of_the_folder(tmp_path):
    path = tmp_path / "genai_image.json"
    path.write_text(json.dumps({"../../x": {"prompt": "a"}}))
    suite = table.make_suite(f"genai_bench:{path}")
    found = find.find_images(write_images(tmp_path / "images", suite, 1), suite, 1)
    with pytest.raises(ValueError, match="name of a file cannot be made of '../../x.jpeg'"):
        adapters.write_folder("genai_bench", found, tmp_path / "out")


def test_what_is_no_such_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be the prompts of hpsv2, from your copy"):
        table.make_suite(f"hpsv2:{tmp_path / 'no'}")
    bad = tmp_path / "bad.csv"
    bad.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="must have the columns index and prompt"):
        table.make_suite(f"unigenbench:{bad}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must hold prompts of dpg_bench; it holds none"):
        table.make_suite(f"dpg_bench:{tmp_path / 'empty'}")


def test_any_suite_is_written_in_genevals_layout_and_found_again(tmp_path):
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    suite = table.make_suite(str(tmp_path / "p.txt"))
    found = find.find_images(write_images(tmp_path / "images", suite, 2), suite, 2)
    adapters.write_folder("p", found, tmp_path / "out")
    again = find.find_images(tmp_path / "out", suite, 2)
    assert [i.read() for i in again.images] == [i.read() for i in found.images]
