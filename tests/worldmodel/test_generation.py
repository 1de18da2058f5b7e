"""Texts and pictures of a model: with the cache and without it the same ones come out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worldmodel import toys
from tests.worldmodel.uncached import PROMPTS, C, P, document, generator, greedy, velocity_of_last
from worldmodel.datasets.mixture.documents import Frame, Text
from worldmodel.decoding import DecodingState, text_segment
from worldmodel.flow import sample
from worldmodel.generation import continue_text, describe_frames, draw_pictures, write_text
from worldmodel.model import WorldModel
from worldmodel.tokens import Tokens


@torch.no_grad()
def test_padded_prompts_write_what_each_prompt_alone_would() -> None:
    model = toys.model()
    together = continue_text(model, toys.tokenizer(), PROMPTS, max_tokens=8)
    assert together == [continue_text(model, toys.tokenizer(), [prompt], max_tokens=8)[0] for prompt in PROMPTS]
    assert together == [greedy(model, [], prompt) for prompt in PROMPTS]
    assert len(set(together)) > 1


@torch.no_grad()
def test_captions_and_answers_equal_uncached() -> None:
    model, latents = toys.model(), toys.random_latents(3)
    assert describe_frames(model, toys.tokenizer(), latents, max_tokens=8) == [greedy(model, [z], None) for z in latents]
    answers = describe_frames(model, toys.tokenizer(), latents, PROMPTS, max_tokens=8)
    assert answers == [greedy(model, [z], None, prompt) for z, prompt in zip(latents, PROMPTS, strict=True)]


def favour(model: WorldModel, token: int) -> WorldModel:
    """A model that writes one token whatever it reads."""
    model.trunk.norm = Constant()
    with torch.no_grad():
        model.text_out.weight.zero_()
        model.text_out.weight[token] = 1.0
    return model


class Constant(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


def test_writing_stops_at_the_end_of_text_and_never_shows_marks() -> None:
    tokenizer = toys.tokenizer()
    assert continue_text(favour(toys.model(), tokenizer.eos_id), tokenizer, PROMPTS, 5) == ["", "", ""]
    letter = tokenizer.encode("a")[0]
    assert continue_text(favour(toys.model(), letter), tokenizer, PROMPTS, 5) == ["aaaaa"] * 3
    for mark in set(range(68)) - {tokenizer.eos_id}:
        model = favour(toys.model(), mark)
        with torch.no_grad():
            model.text_out.weight[letter] = 0.5
        assert continue_text(model, tokenizer, PROMPTS[:1], 5) == ["aaaaa"]


def test_sampled_text_repeats_with_its_seed() -> None:
    def write(seed: int, temperature: float) -> list[str]:
        tokenizer, model = toys.tokenizer(), toys.model()
        segment = text_segment(PROMPTS, tokenizer, torch.device("cpu"))
        state = DecodingState.start(model, 3, segment.ids.shape[1] + 8)
        return write_text(state, segment, tokenizer, 8, temperature, generator(seed))

    assert write(0, 1.0) == write(0, 1.0) != write(1, 1.0)
    assert write(0, 1e-4) == continue_text(toys.model(), toys.tokenizer(), PROMPTS, 8)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_equal_uncached_sampling(guidance: float) -> None:
    """Guidance 1 is the conditional model alone; above 1, the caption's effect is exaggerated."""
    model, captions = toys.model(), PROMPTS[:2]
    drawn = draw_pictures(model, toys.tokenizer(), captions, generator(5), num_steps=4, guidance=guidance)
    noise = torch.randn(2, P, C, generator=generator(5))
    for i, caption in enumerate(captions):
        with_caption, without = document(caption, None), document(None)

        def velocity(z: Tensor, t: float, yes: Tokens = with_caption, no: Tokens = without) -> Tensor:
            conditional = velocity_of_last(model, yes, [], z, t)
            if guidance == 1.0:
                return conditional
            free = velocity_of_last(model, no, [], z, t)
            return free + guidance * (conditional - free)

        torch.testing.assert_close(drawn[i], sample(velocity, noise[i], 4, model.flow_shift), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_words_and_pictures_come_of_a_model_with_a_stem() -> None:
    """A picture is drawn and described as the packed document says, seen beside nothing."""
    model, tokenizer = toys.stem_model(seed=2), toys.tokenizer()
    drawn = draw_pictures(model, tokenizer, PROMPTS[:1], generator(5), num_steps=2, guidance=1.0)
    z = torch.randn(1, 64, C, generator=generator(5))
    assert drawn.shape == z.shape
    document = (Text(PROMPTS[0], predict=False), Frame(toys.picture(np.random.default_rng(0)), predict=True))
    config = replace(toys.PACKING, references=2, caption_dropout=0.0)
    batch = toys.pack([document], config=config, grid=model.config.grid)

    def velocity(x: Tensor, t: float) -> Tensor:
        times = torch.tensor([t])
        seen = model.see(x, times, model.beside(batch, x, x[:0]))
        return model.denoise(model(batch, seen, times)[0][batch.frame_id >= 0][None], x, times, seen)

    torch.testing.assert_close(drawn, sample(velocity, z, 2, model.flow_shift), atol=1e-4, rtol=1e-4)
    read = toys.pack([(Frame(toys.picture(np.random.default_rng(0)), predict=False), Text("x"))], grid=model.config.grid)
    hidden = toys.hidden(model, read, drawn, torch.ones(1))[0, int(read.predicted_positions[0])]
    logits = model.logits(hidden)
    logits[[i for i in range(68) if i != tokenizer.eos_id]] = -torch.inf
    first = int(logits.argmax())
    expected = "" if first == tokenizer.eos_id else tokenizer.decode([first])
    assert describe_frames(model, tokenizer, drawn, max_tokens=1) == [expected]
