"""Let a trained model write and draw: continue a sentence, caption held-out frames, draw pictures for captions."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldmodel.agents.language import score_language
from worldmodel.checkpoint import Pretrained, read_checkpoint
from worldmodel.codec.frames import decode_video
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.films import captioned
from worldmodel.datasets.outputs import check_output, png_bytes, write_output
from worldmodel.errors import UserError
from worldmodel.generation import continue_text, draw_pictures
from worldmodel.home import runs_dir
from worldmodel.known_tasks import data_of
from worldmodel.precision import choose_device
from worldmodel.scripts.console import harmless, run_verb, stages
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.unseen import held_out_episodes


@dataclass(frozen=True)
class GenerateConfig(JsonFlag):
    """Let a trained model continue a sentence, draw pictures for captions, caption held-out frames; what is left out is not done.

    `worldmodel generate --checkpoint run --text "Our economy" --draw "a red disc near the top" --out drawn.png` writes and draws.
    """

    checkpoint: Path
    """Checkpoint or run folder, from worldmodel pretrain."""
    text: str | None = None
    """A sentence to continue."""
    draw: tuple[str, ...] = ()
    """Captions to draw pictures for."""
    data: Path | None = None
    """Episode file whose held-out frames are captioned and asked about. If nothing else is asked for, by default the one that the
    checkpoint was trained on."""
    frames: int = 100
    """How many of them."""
    out: Path | None = None
    """PNG of the drawn pictures; by default `drawn.png` in the runs folder of WORLDMODEL_HOME."""
    overwrite: bool = False
    """Replace a file of that name which worldmodel did not make."""
    tokens: int = 40
    """Greatest number of tokens of text."""
    temperature: float = 0.8
    """Of the text; 0 takes the likeliest token."""
    guidance: float = 3.0
    """Of the pictures: classifier-free guidance, 1 = none."""
    steps: int = 25
    """Flow steps per picture."""
    seed: int = 0
    """Of everything that is drawn."""
    device: str = "auto"
    """auto: the first GPU, else the CPU; or cpu, cuda, cuda:N."""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("tokens", 1), ("steps", 1), ("temperature", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")


def main(config: GenerateConfig) -> dict[str, Any]:
    """Generate what was asked for, in order."""
    out, device = config.out or runs_dir() / "drawn.png", choose_device(config.device)
    data = data_of(config.checkpoint) if config.text is None and not config.draw and config.data is None else config.data
    if config.draw or config.out is not None:
        check_output(out, (".png",), [data] if data else [], config.overwrite)
    found: dict[str, Any] = {}
    with stages("reading the model"):
        trained = read_checkpoint(config.checkpoint, device)
    if config.text is not None:
        generator = torch.Generator().manual_seed(config.seed)
        said = continue_text(trained.model, trained.tokenizer, [config.text], config.tokens, config.temperature, generator)
        print(harmless(f"{config.text}|{said[0]}"))
        found |= {"text": config.text, "continued": said[0]}
    if config.draw:
        with stages("drawing"):
            pictures = draw(trained, config.draw, config.seed, config.steps, config.guidance)
        write_output(out, png_bytes(captioned(list(pictures), config.draw)))
        print(f"{out}: {len(pictures)} pictures, from left to right as asked")
        found |= {"drawn": config.draw, "picture": out}
    if data is not None:
        store = EpisodeStore(data, in_memory=True)
        episodes = held_out_episodes(trained, store)
        with stages("captions and answers"):
            score = score_language(trained.model, trained.tokenizer, trained.codec, store, episodes, config.frames, config.seed)
        for (true, written), (question, right, said_) in list(zip(score.captions, score.answers, strict=True))[:5]:
            print(harmless(f"true: {true}\nsaid: {written}\nasked: {question} true: {right}, said: {said_}"))
        for accuracy in score.accuracies:
            low, high = accuracy.interval
            print(f"{accuracy.name}: {accuracy.rate:.1%} [{low:.1%}, {high:.1%}] of {accuracy.total}, chance {accuracy.chance:.1%}")
        found |= {"captions": score.captions, "answers": score.answers, "language": [each.to_json() for each in score.accuracies]}
    return found


def draw(trained: Pretrained, captions: tuple[str, ...], seed: int, steps: int = 25, guidance: float = 3.0) -> np.ndarray:
    """Draw pictures for captions: uint8 (b, height, width, 3)."""
    generator = torch.Generator().manual_seed(seed)
    latents = draw_pictures(trained.model, trained.tokenizer, captions, generator, steps, guidance)
    return decode_video(trained.codec, latents[:, None])[:, 0]


if __name__ == "__main__":
    sys.exit(run_verb("generate", lambda: main, sys.argv[1:]))
