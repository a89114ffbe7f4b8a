"""`miro-jax demo --checkpoint=...`: serve the page until it is stopped."""

import concurrent.futures
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Sequence

from miro_jax import demo
from miro_jax.cli.exit import UsageError, command_of, note, run
from miro_jax.cli.flags import Parser, add_flags, make_settings
from miro_jax.demo.options import Options

VERB = "demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, see `cli.exit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run(VERB, lambda: _plan(words), _serve)


def _parser() -> Parser:
    parser = Parser(
        prog=command_of(VERB),
        description="Serve a page with sliders for a trained network: targets and negative targets "
        "of each reward, and images with their measured scores.",
        epilog="example:\n  miro-jax demo --checkpoint=runs/base\n\nThe page makes no request to "
        "any other host. It needs the extra: pip install 'miro_jax[demo]'.",
    )
    add_flags(parser, Options)
    return parser


def _plan(words: Sequence[str]) -> Options:
    options = make_settings(Options, _parser().read(words))
    if importlib.util.find_spec("gradio") is None:
        raise UsageError(
            "the demo needs gradio, which is not installed: pip install 'miro_jax[demo]'"
        )
    demo.studio.check_options(options)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((options.host, options.port))
        except socket.gaierror as error:
            raise UsageError(
                f"--host must be an address of this machine; got {options.host}: {error.strerror}."
            ) from error
        except OSError as error:
            raise UsageError(
                f"--port must be free on {options.host}; got {options.port}: {error.strerror}."
            ) from error
    return options


def _serve(options: Options) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    note(f"{VERB}: loading {options.checkpoint}")
    # Its seconds pass while the network's programs are loaded.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        importing = pool.submit(demo.page.load_components)
        studio = demo.studio.open_studio(options)
        importing.result()
    page = demo.page.build_page(studio)
    demo.page.launch(page, options.host, options.port)
    note(f"{VERB}: http://{options.host}:{options.port} until Ctrl-C")
    try:
        studio.compile_other()
        threading.Event().wait()
    except KeyboardInterrupt:  # serving ends when it is stopped
        page.close(verbose=False)
        note(f"{VERB}: stopped")
