"""The kinds of sources and their usual shares of the token stream: whoever adds a source names its class and its share here."""

from dataclasses import dataclass, fields

from worldmodel.datasets.mixture.frame_sources import CaptionedImageSource, CaptionSource, InstructionSource, QuestionSource
from worldmodel.datasets.mixture.hindsight import GoalSource, SpokenGoalSource, TransitionSource
from worldmodel.datasets.mixture.pair_source import ImagePairSource
from worldmodel.datasets.mixture.source import RecipeSource
from worldmodel.datasets.mixture.text_source import TextSource
from worldmodel.datasets.mixture.video_sources import ActionVideoSource, ChangeSource, VideoSource

KINDS: dict[str, type[RecipeSource]] = {
    source.kind: source
    for source in (
        TextSource,
        ImagePairSource,
        TransitionSource,
        GoalSource,
        SpokenGoalSource,
        ActionVideoSource,
        VideoSource,
        CaptionSource,
        CaptionedImageSource,
        QuestionSource,
        ChangeSource,
        InstructionSource,
    )
}
"""Kind, as recipes name it -> its class."""


@dataclass(frozen=True)
class Shares:
    """Shares of the token stream, each of the kind of its name. Only their ratios count; 0 leaves a source out."""

    transition: float = 0.30
    """Frames up to now, the actions of one or several model steps, the frame after them."""
    goal: float = 0.34
    """Frames up to now, a frame that the episode came to later, how many steps that took, the actions that led there."""
    spoken_goal: float = 0.04
    """The same with a sentence that is true of that frame instead of the frame."""
    action_video: float = 0.0
    """Frames with the actions between them."""
    video: float = 0.04
    """Frames without actions."""
    caption: float = 0.06
    """A frame, then what is true of it."""
    captioned_image: float = 0.06
    """A caption, then a frame it is true of."""
    question: float = 0.06
    """A frame, a question, its answer."""
    change: float = 0.0
    """Two frames one model step apart, then what changed."""
    instruction: float = 0.0
    """A frame and an instruction, then the frame that fulfils it; from episodes that succeed."""
    text: float = 0.06
    """Text corpora."""
    pictures: float = 0.04
    """Pictures with captions that are not from a task, in both directions."""


SHARES = {item.name: KINDS["pairs" if item.name == "pictures" else item.name.replace("_", " ")] for item in fields(Shares)}
"""Share -> the source that it stands for."""
