"""Notebooks, run from top to bottom in a kernel of their own."""

import asyncio
from typing import Any

import zmq
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

PATIENCE = 1800  # seconds until a cell counts as hanging: one trains, on the busiest machine
# Sockets of the file system: no port that another process may want.
SETTINGS = Config({"KernelManager": {"transport": "ipc"}})


def execute(notebook: NotebookNode) -> None:
    """Run the cells of a notebook, which gets their outputs.

    Of an asyncio socket that is polled, zmq sometimes loses the event of an answer that lies there;
    the client then waits out its whole patience. So the sockets are asked once a second.
    """
    waiting: set[asyncio.TimerHandle] = set()

    def ask() -> None:
        if client.kc is None or not client.kc.channels_running:
            return
        for channel in (client.kc.shell_channel, client.kc.iopub_channel):
            channel.socket.get(zmq.EVENTS)
        waiting.clear()
        waiting.add(asyncio.get_running_loop().call_later(1.0, ask))

    def stop(**_: Any) -> None:
        for handle in waiting:
            handle.cancel()

    client = NotebookClient(
        notebook,
        timeout=PATIENCE,
        startup_timeout=PATIENCE,
        kernel_name="python3",
        config=SETTINGS,
        on_notebook_start=lambda **_: ask(),
        on_notebook_complete=stop,
    )
    client.execute()
