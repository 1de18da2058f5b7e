"""What every run of an ablation is measured with: the same held-out clips, state probe, text and problems."""

from dataclasses import dataclass, replace

import numpy as np

from worldmodel.agents.evaluate import EvaluateConfig
from worldmodel.agents.model_score import score
from worldmodel.agents.protocol import Manifest, ManifestConfig, make_manifest
from worldmodel.agents.world import rollout_of
from worldmodel.batch import PackedBatch
from worldmodel.checkpoint import Pretrained
from worldmodel.codec.frames import psnr_of
from worldmodel.codec.training_frames import column_of, some_of, target_column
from worldmodel.datasets.episodes.store import EpisodeStore
from worldmodel.datasets.mixture.samplers import ClipSampler
from worldmodel.datasets.mixture.training_data import TrainingData
from worldmodel.errors import UserError
from worldmodel.evaluation import DreamConfig, dream_errors, score_text
from worldmodel.flops import parameter_counts
from worldmodel.flow import FlowConfig
from worldmodel.rollout import RolloutConfig
from worldmodel.studies.experiment_runner import ExperimentRunner
from worldmodel.studies.state_probe import StateProbe

STATE_PROBE_FRAMES = 8192
"""About how many frames the state probe is fitted on."""


@dataclass(frozen=True)
class AblationMetrics:
    """Built by `make_ablation_metrics`."""

    store: EpisodeStore
    """The file whose held-out episodes are dreamed."""
    held_out: list[int]
    state_probe: StateProbe
    future: np.ndarray
    """(clips, horizon, f) true variables of the dreamed frames."""
    controls: dict[str, float]
    """Scores of copying the last frame, and of the state probe on true frames."""
    manifest: Manifest | None
    """Planning problems, if any are wanted."""
    block: int
    """Environment actions per model step."""
    dream: DreamConfig
    rollout: RolloutConfig

    def measure(
        self, trained: Pretrained, runner: ExperimentRunner, batches: dict[str, list[PackedBatch]], flow: FlowConfig, seed: int
    ) -> dict[str, float]:
        """Measure one trained model: every number of `MEASURES` (ablation.py), by name.

        Args:
            trained: the model with its codec and tokenizer.
            runner: the data that it was trained on.
            batches: held-out ones by modality.
            flow: noise levels that the flow loss is measured at, the baseline's.
            seed: of the planner.
        """
        model, data = trained.model, runner.data
        rollout = rollout_of(trained, self.store.meta["env_id"], self.store.action_size, self.rollout)
        dream = dream_errors(rollout, trained.codec, self.store, self.held_out, self.block, self.dream)
        learned, shuffled, copied = (dream.pixel[name] for name in ("learned", "shuffled_actions", "copy_last_frame"))
        values = {
            "psnr_1": psnr_of(learned[0][0]),
            "psnr_last": psnr_of(learned[-1][0]),
            "state_error_1": self.state_probe.error(dream.dream[:, 0], self.future[:, 0]),
            "state_error_last": self.state_probe.error(dream.dream[:, -1], self.future[:, -1]),
            "action_sensitivity": shuffled[-1][0] / learned[-1][0],
            "flow_loss": runner.losses(model, batches, flow=flow)["vision"],
            "active_parameters": float(parameter_counts(model.config).active),
        }
        if data.held_out_texts:
            texts = [text[:1000] for text in data.held_out_texts]
            values["text_bits_per_byte"] = score_text(model, trained.tokenizer, texts).model
        self.controls.update({"psnr_1 of copying": psnr_of(copied[0][0]), "psnr_last of copying": psnr_of(copied[-1][0])})
        if self.manifest is not None:
            planner = replace(EvaluateConfig(), seed=seed, videos=0)
            scores, _ = score(trained, self.manifest, self.block, planner, self.rollout, 2, ("cem",))
            values["success"] = scores[0].success_rate
        return values


def make_ablation_metrics(data: TrainingData, dream: DreamConfig, rollout: RolloutConfig, problems: int) -> AblationMetrics:
    """Choose the file whose held-out episodes are dreamed, fit its state probe, and draw the problems.

    Args:
        data: opened files.
        dream: how many clips, how far.
        rollout: flow steps per frame.
        problems: held-out planning problems, 0 for none.

    Raises:
        UserError: no file has actions, true variables and held-out episodes as long as the dreams.
    """
    block, steps = data.config.action_block, dream.context - 1 + dream.horizon
    splits = zip(data.stores, data.train_episodes, data.held_out_episodes, strict=True)
    able = [
        split
        for split in splits
        if split[0].has_actions and (split[0].lengths[split[2]] * split[0].action_block >= steps * block).any()
    ]
    if not able:
        raise UserError(
            f"no file has actions and a held-out episode of {steps * block} of them, which a dream of {dream.horizon} steps "
            "takes: collect longer episodes, or take a shorter --dream.horizon"
        )
    store, train, held_out = able[0]
    column = target_column(store)
    if column is None:
        raise UserError(f"{store.path} has no true variables to judge dreams by; collect it with worldmodel collect")
    kept = some_of(train, STATE_PROBE_FRAMES / max(1, store.num_frames))
    episode = np.repeat(kept, store.lengths[kept] + 1)
    state_probe = StateProbe(store.frames(store.frame_rows(kept)), column_of(store, column, kept), episode)
    rng = np.random.default_rng(dream.seed)
    sampler = ClipSampler(store, held_out, steps, block)
    clips = [sampler.draw(rng) for _ in range(dream.clips)]  # the same as in dream_errors
    every = block // store.action_block
    rows = [c.start // store.action_block + every * np.arange(steps + 1) for c in clips]
    future = np.stack([column_of(store, column, [c.episode])[r] for c, r in zip(clips, rows, strict=True)])[:, dream.context :]
    truth = np.stack([clip.frames for clip in clips])
    last = truth[:, dream.context - 1]
    controls = {}
    for name, h in (("1", 0), ("last", -1)):
        controls[f"state_error_{name} of true frames"] = state_probe.error(truth[:, dream.context :][:, h], future[:, h])
        controls[f"state_error_{name} of copying"] = state_probe.error(last, future[:, h])
    manifest = make_manifest(store, held_out, store.path.name, ManifestConfig(problems=problems)) if problems else None
    return AblationMetrics(store, list(held_out), state_probe, future, controls, manifest, block, dream, rollout)
