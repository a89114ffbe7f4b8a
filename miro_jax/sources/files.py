"""Single files that a source names, each of which may be anything at all.

What is wrong with one file is a cause; what is wrong with the disk or the network is an error.
"""

import errno
import os
import stat

from miro_jax.images import MAX_BYTES, BadImage
from miro_jax.sources import storage

# What the system says of one file, and not of the storage as a whole.
_OF_THE_FILE = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR)


def read_file(path: str) -> bytes:
    """Read a file that is expected to be a picture or its text.

    Raises:
        BadImage: it is not there, no plain file, of more than MAX_BYTES, or may not be read.
        OSError: the storage fails.
    """
    try:
        plain, size = _facts(path)
        if plain and size <= MAX_BYTES:
            with storage.open_read(path) as file:
                return file.read(MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadImage("missing image", path) from error
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            raise BadImage("unreadable file", f"{path!r}: {error.strerror}") from error
        raise
    if not plain:  # reading a pipe might never end
        raise BadImage("not a file", path)
    raise BadImage("too large", f"a file of {size} bytes, at most {MAX_BYTES}")


def _facts(path: str) -> tuple[bool, int]:
    """Return whether a path is that of a plain file, and its bytes."""
    if storage.is_remote(path):
        return True, storage.size_of(path)
    if "\0" in path:
        raise FileNotFoundError(errno.ENOENT, "a zero byte in the name", path)
    facts = os.stat(path)
    return stat.S_ISREG(facts.st_mode), facts.st_size
