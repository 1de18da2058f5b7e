"""Writing text and drawing pictures.

Axes: b sequences, n positions, l latent tokens, c channels, v vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worldmodel.decoding import BatchSegment, DecodingState, FrameSegment, TextSegment, size, text_segment, token_segment
from worldmodel.model import WorldModel
from worldmodel.rollout import denoise_frame
from worldmodel.tokenizer import SPECIAL_TOKENS, Tokenizer


@torch.no_grad()
def write_text(
    state: DecodingState,
    last: BatchSegment,
    tokenizer: Tokenizer,
    max_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Continue every sequence with text until `<eos>` or `max_tokens`.

    Args:
        state: sequences of equal structure.
        last: the segment to append first; text follows it (for a caption, the frame's `<eoi>`).
        tokenizer: decodes the result.
        max_tokens: upper bound on new tokens.
        temperature: 0 takes the likeliest token; otherwise sample with `generator`.
        generator: CPU generator, needed when the temperature is above 0.
    """
    hidden = state.append([last], commit=1)[0]
    if isinstance(last, TextSegment):  # the last valid token of each sequence
        ends = last.valid.sum(1).clamp_min(1) - 1
        hidden = hidden[torch.arange(len(ends), device=ends.device), ends]
    else:
        hidden = hidden[:, -1]
    written: list[list[int]] = [[] for _ in range(len(hidden))]
    done = [False] * len(hidden)
    for _ in range(max_tokens):
        logits = state.model.logits(hidden)
        logits[:, [i for i in range(len(SPECIAL_TOKENS)) if i != tokenizer.eos_id]] = -torch.inf
        if temperature > 0:
            weights = (logits / temperature).softmax(-1).cpu()
            token = torch.multinomial(weights, 1, generator=generator)[:, 0].to(logits.device)
        else:
            token = logits.argmax(-1)
        for row, value in enumerate(token.tolist()):
            done[row] = done[row] or value == tokenizer.eos_id
            if not done[row]:
                written[row].append(value)
        if all(done):
            break
        ids = token[:, None]
        hidden = state.append([TextSegment(ids, torch.ones_like(ids, dtype=torch.bool))], commit=1)[0][:, -1]
    return [tokenizer.decode(ids) for ids in written]


@torch.no_grad()
def continue_text(
    model: WorldModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_tokens: int = 40,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Write continuations of prompts (each at least one token long), without the prompts themselves."""
    segment = text_segment(prompts, tokenizer, model.device)
    state = DecodingState.start(model, len(prompts), segment.ids.shape[1] + max_tokens)
    return write_text(state, segment, tokenizer, max_tokens, temperature, generator)


@torch.no_grad()
def describe_frames(
    model: WorldModel, tokenizer: Tokenizer, latents: Tensor, questions: Sequence[str] | None = None, max_tokens: int = 128
) -> list[str]:
    """Write captions of frames (b, l, c), or answers to one question about each."""
    b, device = len(latents), latents.device
    before: list[BatchSegment] = [token_segment(tokenizer.boi_id, b, device), FrameSegment(latents, 1.0)]
    last: BatchSegment = token_segment(tokenizer.eoi_id, b, device)
    if questions is not None:
        before.append(last)
        last = text_segment(questions, tokenizer, device)
    state = DecodingState.start(model, b, size([*before, last], model.config.frame_tokens) + max_tokens)
    state.append(before, commit=len(before))
    return write_text(state, last, tokenizer, max_tokens)


@torch.no_grad()
def draw_pictures(
    model: WorldModel,
    tokenizer: Tokenizer,
    captions: Sequence[str],
    generator: torch.Generator,
    num_steps: int = 25,
    guidance: float = 3.0,
) -> Tensor:
    """Draw latents (b, l, c) of pictures for captions: Euler steps with classifier-free guidance (arXiv 2207.12598).

    Args:
        model: a trained model.
        tokenizer: its tokenizer.
        captions: b texts.
        generator: CPU generator of the noise.
        num_steps: flow steps (the paper's 25).
        guidance: 1 = none, at half the cost; the paper's 3.
    """
    b, device, config = len(captions), model.device, model.config
    noise = torch.randn(b, config.latent_tokens, config.channels, generator=generator).to(device)
    boi = token_segment(tokenizer.boi_id, b, device)
    contexts: list[list[BatchSegment]] = [[text_segment(captions, tokenizer, device), boi]]
    if guidance != 1:
        contexts.append([boi])  # as training packs a picture whose caption is dropped
    states = [DecodingState.start(model, b, size(segments, config.frame_tokens) + config.frame_tokens) for segments in contexts]
    return denoise_frame(states, contexts, noise, num_steps, guidance)
