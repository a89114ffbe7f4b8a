"""`miro-jax demo --checkpoint=...`: serve the page until it is stopped."""

import concurrent.futures
import errno
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Sequence

from miro_jax import demo
from miro_jax.cli.exit import UsageError, note, run
from miro_jax.cli.flags import Parser, make_settings
from miro_jax.demo.options import Options

VERB = "demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, see `cli.exit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run(VERB, lambda: _plan(words), _serve)


def _plan(words: Sequence[str]) -> Options:
    parser = Parser(
        VERB,
        Options,
        description="Serve a page with sliders for a trained network: targets and negative targets "
        "of each reward, and images with their measured scores.",
        epilog="example:\n  miro-jax demo --checkpoint=runs/base\n\nThe page makes no request to "
        "any other host. It needs the extra: pip install 'miro_jax[demo]'.",
        done="stopped by Ctrl-C, its usual end",
    )
    options = make_settings(Options, parser.read(words))
    if importlib.util.find_spec("gradio") is None:
        raise UsageError(
            "the demo needs gradio, which is not installed: pip install 'miro_jax[demo]'"
        )
    demo.studio.check_options(options)
    _check_address(options.host, options.port)
    return options


def _check_address(host: str, port: int) -> None:
    """Raise UsageError unless the page can be served there."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        with socket.socket(family) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            text = f"--host must be an address of this machine; got {host}: {error.strerror}."
        else:
            text = f"--port must be free on {host}; got {port}: {error.strerror}."
        raise UsageError(text) from error


def _serve(options: Options) -> None:
    """Serve the page until Ctrl-C, which is its usual end: there is nothing to resume."""
    try:
        _open_page(options)
    except KeyboardInterrupt:
        note(f"{VERB}: stopped")


def _open_page(options: Options) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    note(f"{VERB}: loading {options.checkpoint}")
    # Its seconds pass while the network's programs are loaded.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        importing = pool.submit(demo.page.load_components)
        studio = demo.studio.open_studio(options)
        importing.result()
    page = demo.page.build_page(studio)
    host = f"[{options.host}]" if ":" in options.host else options.host  # of IPv6
    demo.page.launch(page, host, options.port)
    note(f"{VERB}: http://{host}:{options.port} until Ctrl-C")
    try:
        studio.compile_other()
        threading.Event().wait()
    finally:
        page.close(verbose=False)
