"""What a model computes without a cache, every position anew: what the cached paths are compared with.

Axes: n positions, p latent tokens, c channels, a action numbers, d width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.worldmodel import toys
from worldmodel.batch import collate
from worldmodel.model import WorldModel
from worldmodel.tokens import Tokens

P, C = 4, toys.CHANNELS
PROMPTS = ["a red disc is near the top", "a blue", "then it moves right by half a step"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hidden_of(model: WorldModel, tokens: Tokens, latents: Sequence[Tensor], t: Sequence[float]) -> Tensor:
    """Hidden states (n, d) of one document from scratch, with its frames' latents (p, c) and flow times."""
    batch = collate([[tokens]], len(tokens), toys.tokenizer().pad_id, 2)
    z = torch.stack(list(latents)) if latents else torch.zeros(0, P, C)
    return toys.hidden(model, batch, z, torch.tensor(t))[0]


def document(*segments: str | None | Tensor) -> Tokens:
    """A text (str), a frame (None), or an action vector (a,), in order."""
    tokens, tokenizer = Tokens(), toys.tokenizer()
    for segment in segments:
        if isinstance(segment, str):
            tokens.add_text(tokenizer.encode(segment), predict=False)
        elif segment is None:
            tokens.add_frame(torch.zeros(toys.IMAGE, toys.IMAGE, 3, dtype=torch.uint8).numpy(), True, (2, 2), tokenizer)
        else:
            tokens.add_action_vector(segment.numpy(), tokenizer.pad_id)
    return tokens


def velocity_of_last(model: WorldModel, tokens: Tokens, clean: Sequence[Tensor], z: Tensor, t: float) -> Tensor:
    """Velocity (p, c) of a document's last frame, the others being clean."""
    hidden = hidden_of(model, tokens, [*clean, z], [1.0] * len(clean) + [t])
    frame = [i for i, kind in enumerate(tokens.modality) if kind == 1][-P:]
    return model.denoise(hidden[frame][None], z[None], torch.tensor([t]), model.see(z[None], torch.tensor([t])))[0]


def greedy(model: WorldModel, latents: Sequence[Tensor], *segments: str | None) -> str:
    """The likeliest continuation of a document, 8 tokens at most, from scratch for every token."""
    tokens, tokenizer, written = document(*segments), toys.tokenizer(), []
    for _ in range(8):
        logits = model.text_out(hidden_of(model, tokens, latents, [1.0] * len(latents))[-1])
        logits[[i for i in range(68) if i != tokenizer.eos_id]] = -torch.inf
        token = int(logits.argmax())
        if token == tokenizer.eos_id:
            break
        written.append(token)
        tokens.add_text([token], predict=False)
    return tokenizer.decode(written)
