"""An object store: S3's protocol over HTTP, answered by moto on this machine."""

import contextlib
import os
import uuid

import fsspec
import s3fs
from moto.server import ThreadedMotoServer

from miro_jax.data.storage.remote import open_url


@contextlib.contextmanager
def serve():
    """Run a store as long as the context lasts; this process and those it starts find it.

    Yields:
        A function that makes a bucket and returns its address.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def make_bucket():
        name = uuid.uuid4().hex
        fsspec.filesystem("s3").mkdir(name)
        return f"s3://{name}"

    try:
        yield make_bucket
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def upload(folder, address):
    """Copy the files of a folder."""
    system, root = open_url(address)
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def names(address):
    """The names of all objects below an address."""
    system, root = open_url(address)
    return [path[len(root) :].lstrip("/") for path in system.find(root)]


def contents(address):
    """All objects below an address, by name."""
    system, root = open_url(address)
    return {name: system.cat_file(f"{root}/{name}") for name in names(address)}
