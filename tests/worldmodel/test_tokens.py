"""Documents as positions: actions that are left out for classifier-free guidance."""

import numpy as np
import pytest

from tests.worldmodel import toys
from worldmodel.datasets.documents import Frame
from worldmodel.errors import UserError
from worldmodel.tokens import PackingConfig, Tokens, tokenise


def videos(config: PackingConfig, count: int = 200) -> list[Tokens]:
    return [
        tokenise(toys.action_video(np.random.default_rng(i)), toys.tokenizer(), toys.GRID, config, np.random.default_rng([i, 1]))
        for i in range(count)
    ]


@pytest.mark.parametrize("text_share", [0.0, 1.0])
def test_a_share_of_the_action_videos_loses_its_actions(text_share: float) -> None:
    full = {len(tokens) for tokens in videos(PackingConfig(text_action_share=text_share))}
    plain = 3 * (4 + 2)  # three frames with their marks and nothing between them
    lengths = [len(tokens) for tokens in videos(PackingConfig(text_action_share=text_share, action_dropout=0.3))]
    assert plain not in full
    assert set(lengths) <= full | {plain}
    assert 0.2 < lengths.count(plain) / len(lengths) < 0.4


def test_without_its_actions_it_is_a_plain_video() -> None:
    """So the unconditional branch of a guided rollout is something that the model has been trained on."""
    rng, config = np.random.default_rng(0), PackingConfig(action_dropout=1.0)
    video = toys.action_video(rng)
    plain = tuple(segment for segment in video if isinstance(segment, Frame))
    dropped, expected = (tokenise(d, toys.tokenizer(), toys.GRID, config, np.random.default_rng(1)) for d in (video, plain))
    for name in ("token_id", "modality", "frame", "action", "position", "predicted", "clean"):
        assert getattr(dropped, name) == getattr(expected, name)


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"action_dropout is 1\.5"):
        PackingConfig(action_dropout=1.5)
