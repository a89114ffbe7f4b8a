"""A folder belongs to one request; a refusal names the key that differs and both values."""

import json

import pytest

from miro_jax.data.storage import Damaged, open_folder
from miro_jax.data.storage.claim import (
    MANIFEST_NAME,
    PARTIAL_NAME,
    Claim,
    describe_difference,
)
from miro_jax.data.storage.files import to_json

REQUEST = {"rewards": ["clip"], "pieces": {"a.tar": 1, "b.tar": 2}, "seed": 0}


def claim_of(path):
    return Claim(folder=open_folder(path))


def test_a_new_folder_belongs_to_the_first_request(tmp_path):
    claim = claim_of(tmp_path / "out")
    assert claim.present() is None
    claim.check(REQUEST)
    claim.begin(REQUEST)
    claim.begin(REQUEST)
    assert claim.present() == REQUEST
    assert [p.name for p in (tmp_path / "out").iterdir()] == [PARTIAL_NAME]


def test_finish_leaves_the_manifest_alone_and_still_compares(tmp_path):
    claim = claim_of(tmp_path)
    claim.begin(REQUEST)
    claim.finish(to_json({"request": REQUEST, "images": []}))
    assert [p.name for p in tmp_path.iterdir()] == [MANIFEST_NAME]
    claim.begin(REQUEST)
    assert [p.name for p in tmp_path.iterdir()] == [MANIFEST_NAME]
    with pytest.raises(ValueError, match="seed is 0 there, 1 here"):
        claim.begin(REQUEST | {"seed": 1})


@pytest.mark.parametrize("finished", [False, True])
def test_another_request_is_refused_by_key_and_both_values(tmp_path, finished):
    claim = claim_of(tmp_path)
    claim.begin(REQUEST)
    if finished:
        claim.finish(to_json({"request": REQUEST}))
    other = {"rewards": ["clip", "vqa"], "seed": 0}
    with pytest.raises(ValueError, match=r'rewards is \["clip"\] there, \["clip", "vqa"\] here'):
        claim.check(other)


def test_keys_that_were_not_known_then_are_not_compared(tmp_path):
    claim = claim_of(tmp_path)
    claim.begin({"seed": 0})
    claim.check({"seed": 0, "new": 3})


def test_values_are_compared_as_they_are_read_back(tmp_path):
    claim = claim_of(tmp_path)
    claim.begin({"levels": (0.0, 1.0)})
    claim.check({"levels": [0.0, 1.0]})


def test_what_matches_may_be_decided_outside(tmp_path):
    claim = Claim(folder=open_folder(tmp_path), matches=lambda key, a, b: key == "name" or a == b)
    claim.begin({"name": "a", "seed": 0})
    claim.check({"name": "b", "seed": 0})
    with pytest.raises(ValueError, match="seed"):
        claim.check({"name": "a", "seed": 1})


def test_objects_are_compared_key_by_key():
    present = {"a": 1, "b": 2, "gone": 3}
    text = describe_difference("pieces", present, {"a": 1, "b": 4, "new": 5})
    assert text == (
        "pieces.b is 2 there, 4 here; pieces has only there: gone; pieces has only here: new"
    )


def test_a_damaged_manifest_is_named(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text("{")
    with pytest.raises(OSError, match=MANIFEST_NAME):
        claim_of(tmp_path).check(REQUEST)


def test_the_request_is_json(tmp_path):
    claim_of(tmp_path).begin(REQUEST)
    content = json.loads((tmp_path / PARTIAL_NAME).read_bytes())
    assert content.pop("seal") and content == REQUEST


def test_a_request_that_was_changed_is_damaged_and_one_without_a_seal_is_read(tmp_path):
    claim_of(tmp_path).begin(REQUEST)
    path = tmp_path / PARTIAL_NAME
    changed = json.loads(path.read_bytes()) | {"seed": 1}
    path.write_text(json.dumps(changed))
    with pytest.raises(Damaged, match=f"{PARTIAL_NAME} is damaged: it was changed .* its seal"):
        claim_of(tmp_path).present()
    del changed["seal"]  # as earlier versions wrote it
    path.write_text(json.dumps(changed))
    assert claim_of(tmp_path).present() == changed


def test_a_partial_manifest_may_hold_more_than_the_request(tmp_path):
    made = Claim(
        folder=open_folder(tmp_path), partial_request_of=lambda partial: partial["request"]
    )
    made.begin(REQUEST, {"request": REQUEST, "images": []})
    assert json.loads((tmp_path / PARTIAL_NAME).read_bytes())["images"] == []
    assert made.present() == REQUEST
    with pytest.raises(ValueError, match="seed is 0 there, 1 here"):
        made.begin(REQUEST | {"seed": 1})


CAPTIONS = {"name": "c.csv", "rows": 9, "digest": "3fab"}


def test_content_is_compared_by_digest_and_described_by_what_a_reader_knows(tmp_path):
    claim = claim_of(tmp_path)
    claim.begin({"captions": CAPTIONS})
    claim.check({"captions": CAPTIONS | {"name": "moved.csv"}})
    with pytest.raises(ValueError, match="captions.rows is 9 there, 10 here") as caught:
        claim.check({"captions": CAPTIONS | {"rows": 10, "digest": "99cc"}})
    assert "3fab" not in str(caught.value) and "99cc" not in str(caught.value)
    text = describe_difference("captions", CAPTIONS, CAPTIONS | {"digest": "99cc"})
    assert text == 'captions has other content there than here, {"name": "c.csv", "rows": 9}'
    assert "null there" in describe_difference("captions", None, CAPTIONS)


def test_a_bare_digest_of_an_older_request_is_still_compared(tmp_path):
    claim = claim_of(tmp_path)
    claim.begin({"source": {"kind": "tar", "captions": "3fab"}})
    claim.check({"source": {"kind": "tar", "captions": CAPTIONS}})
    with pytest.raises(ValueError, match="source.captions has other content") as caught:
        claim.check({"source": {"kind": "tar", "captions": CAPTIONS | {"digest": "99cc"}}})
    assert "3fab" not in str(caught.value) and "99cc" not in str(caught.value)
