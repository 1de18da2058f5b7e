"""A look at a mixture before a day of training: its documents in words, a page of decoded samples, and what is really drawn."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from worldmodel.datasets.mixture.documents import Action, Document, Frame, NextActions, Steps, Text
from worldmodel.datasets.mixture.mixture import Mixture
from worldmodel.datasets.mixture.page import Numbered, counted, mixture_page, steps_in_words
from worldmodel.datasets.mixture.recipe import recipe_path
from worldmodel.datasets.mixture.source import Part
from worldmodel.datasets.mixture.stats import as_text
from worldmodel.datasets.mixture.training_data import MixtureConfig, open_training_data
from worldmodel.datasets.outputs import check_output, write_output
from worldmodel.datasets.shuffle import seeded_key, shuffled
from worldmodel.errors import UserError


@dataclass(frozen=True)
class MixConfig:
    """Which mixture to look at, and how much of it."""

    data: tuple[Path, ...] = ()
    """Episode files."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Shares of the sources, or a recipe."""
    show: bool = True
    """Print documents as a person reads them; without, the table of what is drawn alone."""
    documents: int = 12
    """Samples of each source on the page."""
    printed: int = 3
    """How many of them are printed."""
    drawn: int = 2000
    """First documents of the stream that are drawn and measured for the table."""
    seed: int = 0
    """Of the stream, as in training."""
    tokenizer: Path | None = None
    """A checkpoint's tokenizer.json (or its folder), to count the tokens of texts; without, a token is taken to be 4 bytes."""
    patch_size: int = 16
    """Side of the patches of a frame that are one token each, in pixels, as the codec has them."""
    out: Path = Path("mixture.html")
    """Page to write, an .html file."""
    overwrite: bool = False
    """Replace a file of that name which worldmodel did not make."""
    print_recipe: str = ""
    """Print a recipe (a file, or the name of a shipped one) and do nothing else."""

    def __post_init__(self) -> None:
        for name in ("documents", "drawn", "patch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")


def show(config: MixConfig) -> str:
    """Write the page, and return what is to be printed; UserError where the mixture cannot be opened, or the page be written."""
    if config.print_recipe:
        return recipe_path(config.print_recipe).read_text("utf8").rstrip()
    check_output(config.out, (".html",), [*config.data, *filter(None, [config.tokenizer])], config.overwrite)
    measure, unit = measure_of(config)
    data = open_training_data(config.data, config.mixture)
    mixture = Mixture(data.sources(), config.seed, measure)
    table = data.report(mixture, config.drawn, measure)
    samples = {part.source.name: list(sample(part, config.documents, seeded_key(config.seed, k))) for k, part in enumerate(data.parts)}
    numbered = number_frames(samples)
    note = f"Shares are of tokens, counted as {unit}; drawn: in the first {config.drawn:,} documents of seed {config.seed}."
    page = mixture_page(table, numbered, f"{note} Epochs: passes over the source in these documents.")
    write_output(config.out, page)
    lines = []
    for name, documents in numbered.items() if config.show else ():
        lines += [f"{name}:", *(f"  {in_words(each)}" for each in documents[: config.printed]), ""]
    return "\n".join([*lines, as_text(table), "", note, f"{config.out}: the page with samples of every source"])


def sample(part: Part, documents: int, seed: int) -> Iterator[Document]:
    """Draw documents of different items of a source, at most as many as it has."""
    length = len(part.source)
    for j in range(min(documents, length)):
        yield part.source.document(shuffled(j, length, seed), np.random.default_rng([seed, j]))


def number_frames(samples: dict[str, list[Document]]) -> dict[str, list[Numbered]]:
    """Give each frame a number, by which text and page speak of it."""
    number = 0
    numbered: dict[str, list[Numbered]] = {}
    for name, documents in samples.items():
        numbered[name] = []
        for document in documents:
            frames = [number + j + 1 for j in range(sum(isinstance(segment, Frame) for segment in document))]
            number += len(frames)
            numbered[name].append(Numbered(document, tuple(frames)))
    return numbered


def in_words(numbered: Numbered) -> str:
    """Write a document in one line: what is given and what is learned."""
    numbers = iter(numbered.frames)
    said = []
    learns = None
    for segment in numbered.document:
        match segment:
            case Text():
                text, predict = f'"{" / ".join(filter(None, segment.text.split(chr(10))))}"', segment.predict
            case Frame():
                height, width = segment.pixels.shape[:2]
                text, predict = f"[picture {width}x{height} #{next(numbers)}]", segment.predict
            case Steps():
                text, predict = f"[{steps_in_words(segment)}]", segment.predict
            case NextActions():
                text, predict = f"[the next actions: {segment.known} numbers]", True
            case Action():
                numbers_of, words = ("; ".join(counted(text)) for text in (segment.text, segment.words))
                said.append(f"({numbers_of or 'action without text'}{words and f' = {words}'})")
                continue
        if predict != learns:
            said.append("learned:" if predict else "given:")
            learns = predict
        said.append(text)
    return " ".join(said)


def measure_of(config: MixConfig) -> tuple[Callable[[Document], int], str]:
    """Choose how a document's length is counted, and say it in words; UserError where the tokenizer cannot be read."""
    encode, of_text = _text_measure(config.tokenizer)

    def measure(document: Document) -> int:
        tokens = int(isinstance(document[-1], Text))  # the end of the text
        for segment in document:
            match segment:
                case Text():
                    tokens += encode(segment.text)
                case Frame():
                    height, width = segment.pixels.shape[:2]
                    tokens += (height // config.patch_size) * (width // config.patch_size) + 2
                case Action() | Steps() | NextActions():
                    tokens += 1
        return tokens

    side = config.patch_size
    return measure, f"{of_text}, a frame one per patch of {side}x{side} pixels and two, an action one (as a vector)"


def _text_measure(path: Path | None) -> tuple[Callable[[str], int], str]:
    if path is None:
        return lambda text: math.ceil(len(text.encode()) / 4), "an estimate: text one per 4 bytes"
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such tokenizer; give the folder of a checkpoint or its tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # what the library raises has no type of its own
        raise UserError(f"{file} is not a tokenizer: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), f"text by {file}"
