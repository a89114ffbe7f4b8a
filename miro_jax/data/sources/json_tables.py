"""What a `.json` table of captions may look like, as its rows.

    [{"file_name": "0.jpg", "text": "a"}, ...]           rows; one alone need not stand in a list
    {"0.jpg": "a", "1.jpg": ["b", "c"], "2.jpg": null}   names of images and their captions
    {"0": {"caption": "a", "tags": "x, y"}, ...}         the same with more, as kohya's sd-scripts
    {"images": [...], "annotations": [...]}              COCO's captions, ids as numbers or texts
    {"images": [...]}                                    the manifest that sample writes

Where an image of kohya's has no caption, its tags are the caption.
"""

from collections.abc import Sequence
from typing import Any

from miro_jax.data.json_file import check_fields
from miro_jax.data.sources.texts import CAPTION_FIELDS, first_with_text

PATH_COLUMNS = ("path", "file", "file_name", "filename", "image", "image_path", "filepath", "key")
CAPTION_COLUMNS = (*CAPTION_FIELDS, "title")  # as filepath and title of open_clip's tables
_TAGS = "tags"


def rows_of(content: Any, name: str) -> list[dict]:
    """Return the rows of a parsed table.

    Raises:
      ValueError, LookupError, TypeError: it is none of the above.
    """
    if _names_texts(content):
        return [{"path": path, "caption": text} for path, text in content.items()]
    if _names_objects(content):
        return [
            {"path": path, **values, "caption": values.get("caption") or values.get(_TAGS)}
            for path, values in content.items()
        ]
    if isinstance(content, dict) and any(isinstance(content.get(key), str) for key in PATH_COLUMNS):
        return [content]
    check_fields(content, ([{}], {"images": [{}], "annotations?": [{}]}), name)
    if isinstance(content, list):
        return content
    return _with_annotations(content["images"], content.get("annotations", ()))


def _with_annotations(images: list[dict], annotations: Sequence[dict]) -> list[dict]:
    """Return COCO's images with the first caption of each that holds text."""
    said: dict[Any, list] = {}
    for one in annotations:
        if "caption" in one:  # else a box or a person, which may stand among the captions
            said.setdefault(_id_of(one["image_id"]), []).append(one["caption"])
    if not said:
        return images
    ids = [_id_of(image["id"]) for image in images]
    if len(set(ids)) < len(ids):  # as of two files joined
        raise ValueError("each of its images must have an id of its own; two have the same")
    if said.keys().isdisjoint(ids):
        raise ValueError(
            "the image_id of an annotation must be the id of an image; none is, the first of them "
            f"{next(iter(said))!r}"
        )
    return [
        image | {"caption": first_with_text(said.get(one, ()))}
        for one, image in zip(ids, images, strict=True)
    ]


def _id_of(value: Any) -> Any:
    """Return an id that is the same whether it is written as a number or as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _names_texts(content: Any) -> bool:
    """Return whether JSON is an object of names of images and their texts, or lists of texts."""
    if not _has_names(content):
        return False
    listed = [value if isinstance(value, list) else [value] for value in content.values()]
    texts = [text for one in listed for text in one]
    return any(texts) and all(text is None or isinstance(text, str) for text in texts)


def _names_objects(content: Any) -> bool:
    """Return whether JSON is an object of names of images and objects that hold their captions."""
    if not _has_names(content) or not all(isinstance(one, dict) for one in content.values()):
        return False
    return any({"caption", _TAGS} & one.keys() for one in content.values())


def _has_names(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return not content.keys() & {*PATH_COLUMNS, *CAPTION_COLUMNS, "images"}
