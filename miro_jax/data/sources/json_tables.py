"""What a `.json` table of captions may look like, as its rows.

    [{"file_name": "0.jpg", "text": "a"}, ...]           rows; one alone need not stand in a list
    {"0.jpg": "a", "1.jpg": ["b", "c"], "2.jpg": null}   names of images and their captions
    {"0": {"caption": "a", "tags": "x, y"}, ...}         the same with more, as kohya's sd-scripts
    {"images": [...], "annotations": [...]}              COCO's captions; the first two as COCO's
    {"images": [...]}                                    the manifest that sample writes

Where an image of kohya's has no caption, its tags are the caption.
"""

from typing import Any

from miro_jax.data.json_file import check_fields
from miro_jax.data.sources.texts import CAPTION_FIELDS

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
    images, said = content["images"], {}
    for one in content.get("annotations", ()):  # as COCO's captions
        said.setdefault(one["image_id"], one.get("caption"))
    if said and len({image["id"] for image in images}) < len(images):  # as of two files joined
        raise ValueError("each of its images must have an id of its own; two have the same")
    return [image | {"caption": said.get(image["id"])} if said else image for image in images]


def _names_texts(content: Any) -> bool:
    """Return whether JSON is an object of names of images and their texts, or lists of texts."""
    if not _has_names(content):
        return False
    listed = [value if isinstance(value, list) else [value] for value in content.values()]
    texts = [text for one in listed for text in one]
    known = all(text is None or isinstance(text, str) for text in texts)
    return known and any(texts) and all(listed)


def _names_objects(content: Any) -> bool:
    """Return whether JSON is an object of names of images and objects that hold their captions."""
    if not _has_names(content) or not all(isinstance(one, dict) for one in content.values()):
        return False
    return any({"caption", _TAGS} & one.keys() for one in content.values())


def _has_names(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return not content.keys() & {*PATH_COLUMNS, *CAPTION_COLUMNS, "images"}
