"""Stage: a run of this package -> a folder in the released layout, which other programs load.

    miro-jax export --workdir=runs/mine --out=exported --push=user/name

The averaged weights of the newest checkpoint become `model.safetensors`; `config.json` also names
the encoders, so that `MiroPipeline.from_pretrained` of the folder needs nothing else. `README.md`
is the model's card, see `model_card`. `push_to_hub` uploads the folder; whoever does is logged in
at the hub (`hf auth login`).
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import ml_collections

from miro_jax import __version__, sample
from miro_jax.cli.exit import run, say
from miro_jax.cli.flags import Parser
from miro_jax.data.near import near_run
from miro_jax.data.storage import open_folder
from miro_jax.data.storage.files import check_own, write_atomic
from miro_jax.pretrained.weights import hub

VERB = "export"


def export(
    workdir: Path | str,
    out: Path | str,
    hub_id: str | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
) -> Path:
    """Write the averaged weights of a run in the released layout, with a card.

    Args:
      workdir: the run's folder, or its URL. out: made where it is missing.
      hub_id: of the card's examples, "owner/name". licence, data_licence: see `model_card`.

    Returns:
      The folder written.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint. ValueError: the released layout cannot
        hold this network, with the sizes that it fixes; or `out` is the folder of a run, or holds
        files of these names that no export wrote.
      NotADirectoryError: `out` is a file.
    """
    settings, out = check_layout(workdir), check_out(out)
    encoders = {kind: settings.encoder[kind].to_dict() for kind in ("image", "caption")}
    trained = sample.trained.load(workdir)
    card = sample.model_card.write_card(
        sample.trained.folder_of(workdir),
        settings.to_dict(),
        trained.step,
        hub_id,
        licence,
        data_licence,
        out.absolute().name,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / sample.model_card.CARD_NAME, card.encode())  # first: it says whose files
    return sample.trained.export(trained, out, encoders)


def check_out(out: Path | str) -> Path:
    """Return the folder to write; ValueError or NotADirectoryError where it cannot be one."""
    if "://" in str(out):
        raise ValueError(f"--out must be a folder of this machine; got {out}. Copy it afterwards.")
    open_folder(out)
    folder = Path(out).expanduser()
    if sample.trained.is_run(folder):
        raise ValueError(
            f"--out must be a folder of its own: a run's config.json would be replaced; got {out}."
        )
    ours = sample.model_card.is_card(folder / sample.model_card.CARD_NAME)
    check_own([folder / name for name in _names()], ours)
    return folder


def _names() -> tuple[str, ...]:
    official = sample.trained.official
    return official.CONFIG, official.WEIGHTS, official.EMPTY, sample.model_card.CARD_NAME


def push_to_hub(folder: Path | str, hub_id: str, private: bool = False) -> str:
    """Upload a folder that `export` wrote to the hub.

    Args:
      folder: in the released layout. hub_id: "owner/name"; made where there is none.
      private: of a repository that is made.

    Returns:
      The URL of the repository.

    Raises:
      ValueError: `hub_id` is none. FileNotFoundError: the folder lacks a file of the layout.
      ConnectionError: the hub refuses or cannot be reached; the text says why.
    """
    check_hub_id(hub_id)
    folder, names = Path(folder), _names()
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; miro-jax export writes it.")
    api = huggingface_hub.HfApi()
    try:
        url = api.create_repo(hub_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=hub_id,
            folder_path=folder,
            allow_patterns=list(names),
            commit_message=f"Upload by miro_jax {__version__}",
        )
    except Exception as error:  # of its client, of a proxy, of a package that a proxy needs
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConnectionError(
            f"{folder} could not be pushed to {hub_id}: {why} Log in with hf auth login, then "
            "give the same command again."
        ) from error
    return str(url)


def check_hub_id(hub_id: str) -> None:
    """Raise ValueError unless a text is of the form owner/name."""
    if not hub.HUB_ID.fullmatch(hub_id):
        raise ValueError(f"--push must be a hub id of the form owner/name; got {hub_id!r}.")


def check_layout(workdir: Path | str) -> ml_collections.ConfigDict:
    """Return the config of a run whose network the released layout can hold; else ValueError.

    Raises:
      FileNotFoundError: it is no run, or a release.
    """
    folder = sample.trained.folder_of(workdir, weights=False)
    if not sample.trained.is_run(folder):
        raise FileNotFoundError(
            f"--workdir must be a run's folder with checkpoints; got {workdir}{near_run(workdir)}"
        )
    sample.trained.peek(workdir)
    settings = ml_collections.ConfigDict(hub.open(folder).json("config.json"))
    if wrong := sample.trained.official.misfits(settings.model.rin, "config.model.rin."):
        raise ValueError(
            f"The released layout cannot hold the network of {workdir}: {'; '.join(wrong)}. Train "
            "one with these sizes."
        )
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(
        VERB,
        description="Write a run's averaged weights in the released layout: config.json, "
        "model.safetensors, uncond_embedding.npy, and the model's card, README.md.",
        epilog="example: miro-jax export --workdir=runs/mine --out=exported --push=user/name",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the run, or URL")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to the hub")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--licence", metavar="NAME", help="of the weights, for the card: mit, ...")
    parser.add_argument(
        "--data-licence", metavar="TEXT", help="of the training images, for the card"
    )

    def plan() -> Namespace:
        flags = parser.read(arguments)
        check_layout(flags.workdir)
        check_out(flags.out)
        if flags.push is not None:
            check_hub_id(flags.push)
        return flags

    def work(flags: Namespace) -> None:
        folder = export(flags.workdir, flags.out, flags.push, flags.licence, flags.data_licence)
        say(folder)
        if flags.push is not None:
            say(push_to_hub(folder, flags.push, flags.private))

    return run(VERB, plan, work)


if __name__ == "__main__":
    sys.exit(main())
