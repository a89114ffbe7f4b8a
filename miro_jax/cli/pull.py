"""Fetch the weights of published models before they are needed, for machines without a network.

    miro-jax weights pull pick_score vqa --to=FOLDER
    HF_HUB_CACHE=FOLDER MIRO_JAX_OFFLINE=1 miro-jax score ...

FOLDER becomes a cache of the hub with exactly the files that the models read. Everything that takes
a hub id finds them there, vocabularies of other repositories included. What the hub says of a large
file, its SHA-256, is what the file must have; a file that was cut short is resumed.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import huggingface_hub

from miro_jax.cli.exit import UsageError, note, say
from miro_jax.data.near import near_name
from miro_jax.data.printable import counted
from miro_jax.data.regular_file import digest_regular
from miro_jax.data.storage import Damaged
from miro_jax.pretrained.encoders import flan_t5, sdxl_vae
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tokenizer import OPTIONS
from miro_jax.rewards import CARDS, SHAPES_REWARDS, aesthetic, blip_reward, clip_family, hp

CHECKPOINT = "nicolas-dufour/miro"
CLIP_H, CLIP_L = clip_family.TOKENIZER, clip_family.CLIP_L
TOKENIZER = ("tokenizer.json",)


@dataclasses.dataclass(frozen=True)
class Need:
    """What a model reads of one repository.

    Attributes:
      source: hub id. files: read where they are. stem: of the weights, see
        `hub.Repository.weights`; "" where none are read.
      vocabulary: files that stand for a tokenizer.json where there is none.
    """

    source: str
    files: tuple[str, ...] = ("config.json",)
    stem: str = "model"
    vocabulary: tuple[str, ...] = ()

    def choose(self, there: Iterable[str]) -> list[str]:
        """Return the names of the files that are read, of those that are there.

        Raises:
          FileNotFoundError: there are no such weights.
        """
        there = set(there)
        chosen = [name for name in self.files if name in there]
        if "tokenizer.json" not in there:
            chosen += [name for name in self.vocabulary if name in there]
        return chosen + (self._weights(there) if self.stem else [])

    def _weights(self, there: set[str]) -> list[str]:
        for name in hub.weight_files(self.stem):
            if name in there:
                if not hub.is_index(name):
                    return [name]
                first, _, rest = name.partition(".")
                ending = rest.removesuffix(".index.json")
                pieces = re.compile(rf"{re.escape(first)}-\d+-of-\d+\.{re.escape(ending)}")
                return [name, *sorted(filter(pieces.fullmatch, there))]
        raise FileNotFoundError(f"{self.source} holds no weights called {self.stem}.")


_CLIP = ("vocab.json", "merges.txt", *OPTIONS)
_T5 = ("spiece.model", *OPTIONS)
# What a repository of weights may hold beside them: read where it is there.
FILES = ("config.json", "open_clip_config.json", "med_config.json", "tokenizer.json")
_VISION = Need(f"{CLIP_L}-336", stem="")  # whose sizes the weights of VQAScore name
_CLIP_H = Need(CLIP_H, ("config.json", "tokenizer.json"), "", _CLIP)
_BERT = Need(blip_reward.TOKENIZER, TOKENIZER, "", ("vocab.txt", *OPTIONS))
# What rewards read of other repositories than that of their card.
OTHERS: Mapping[str, tuple[Need, ...]] = {
    "aesthetic": (Need("camenduru/improved-aesthetic-predictor", (), aesthetic.HEAD_FILE),),
    "image_reward": (_BERT,),
    "vqa@clip-flant5-xxl": (Need("google/flan-t5-xxl", TOKENIZER, "", _T5), _VISION),
    "vqa@clip-flant5-xl": (Need("google/flan-t5-xl", TOKENIZER, "", _T5), _VISION),
    "cycle_reward": (_BERT,),
    "hp": (Need(hp.CARD.weights, (), hp.HEAD), _CLIP_H),
} | dict.fromkeys(("pick_score", "hpsv2", "sci_score", "openai_clip"), (_CLIP_H,))


@dataclasses.dataclass(frozen=True)
class File:
    """A file of the hub. size: bytes. sha256: what the hub says, None of small files."""

    source: str
    name: str
    size: int
    sha256: str | None


def needs() -> dict[str, tuple[Need, ...]]:
    """Return what every model reads, by its name; a reward's versions by their identities too."""
    known: dict[str, tuple[Need, ...]] = {
        "miro": (Need(CHECKPOINT, ("config.json", "uncond_embedding.npy")),),
        "sdxl_vae": (Need(sdxl_vae.CARD.weights, stem=sdxl_vae.CARD.stem),),
        "flan_t5": (Need(flan_t5.CARD.weights, FILES, vocabulary=_T5),),
    }
    for identity, card in CARDS.items():
        vocabulary = _CLIP if _CLIP_H in OTHERS.get(card.name, ()) else ()
        own = Need(card.weights, FILES, card.stem, vocabulary)
        others = OTHERS.get(identity, OTHERS.get(card.name, ()))
        known[identity] = (own, *others)
        known.setdefault(card.name, known[identity])  # the first version is that of the bare name
    return known


def choose(names: Sequence[str]) -> list[Need]:
    """Return what models read, each repository's part once; `all` is every name without a version.

    Raises:
      UsageError: an unknown name, or that of a reward without weights.
    """
    known = needs()
    for name in filter(hub.HUB_ID.fullmatch, names):  # a network that somebody exported
        known[name] = (dataclasses.replace(known["miro"][0], source=name),)
    if bare := [name for name in names if name.partition("@")[0] in SHAPES_REWARDS]:
        raise UsageError(f"NAME must have weights; {' and '.join(bare)} need none: leave them out.")
    if unknown := [name for name in names if name not in ("all", *known)]:
        raise UsageError(
            f"NAME must be all, a hub id, or some of {', '.join(known)}; got {', '.join(unknown)}"
            f"{near_name(unknown[0], known)}"
        )
    every = [name for name in known if "@" not in name]
    names = every if "all" in names else names
    return list(dict.fromkeys(need for name in names for need in known[name]))


def look_up(need: Need) -> list[File]:
    """Ask the hub for the files of a need, with sizes and digests.

    Raises:
      ConnectionError: the hub cannot be reached or refuses. FileNotFoundError: no such weights.
    """
    with _explained(need.source):
        api = huggingface_hub.HfApi()
        listed = api.model_info(need.source, files_metadata=True).siblings or []
    there = {one.rfilename: one for one in listed}
    files = []
    for name in need.choose(there):
        one = there[name]
        digest = one.lfs.sha256 if one.lfs is not None else None
        files.append(File(need.source, name, one.size or 0, digest))
    return files


def fetch(file: File, cache: Path) -> Path:
    """Fetch a file into a cache of the hub, resuming what was cut short, and check its digest.

    Raises:
      ConnectionError: it cannot be fetched. Damaged: it has another digest than the hub says.
    """
    with _explained(f"{file.source}/{file.name}"):
        path = Path(huggingface_hub.hf_hub_download(file.source, file.name, cache_dir=cache))
    if file.sha256 is not None and (found := digest_regular(path)) != file.sha256:
        path.resolve().unlink()
        raise Damaged(
            f"{path} must have the SHA-256 {file.sha256}; got {found}. It was removed; the same "
            "command fetches it again."
        )
    return path


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of its client, of a proxy, of a package that a proxy needs
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConnectionError(f"{what} could not be fetched: {why}") from error


def pull(names: Sequence[str], cache: Path, dry_run: bool = False) -> None:
    """Fetch all that models read, or print what would be fetched."""
    files = [file for need in choose(names) for file in look_up(need)]
    files = list(dict.fromkeys(files))
    for file in files:
        if not dry_run:
            fetch(file, cache)
        known = f"sha256:{file.sha256}" if file.sha256 else "no digest known"
        say(f"{file.size:>14,}  {file.source}/{file.name}  {known}")
    total = sum(file.size for file in files)
    where = "to fetch" if dry_run else f"in {cache}"
    note(f"{counted(len(files), 'file')}, {total / 1e9:.2f} GB {where}")
    if not dry_run:
        note(f"Use them: HF_HUB_CACHE={cache} MIRO_JAX_OFFLINE=1 miro-jax ...")
