"""`World`: a trained model that dreams, plans, acts, tells what it sees and draws.

Frames are uint8 (height, width, 3) of the codec's size, one model step apart; a model step is a block of `block` environment actions.
Whatever is drawn at random is a function of a seed. What is given is checked before anything is computed.

Axes: t frames seen, h model steps ahead, a numbers of an environment action, n environment actions.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from worldmodel.acting import Acting
from worldmodel.agents.actions import as_blocks, describe_block
from worldmodel.agents.controllers import EvaluateConfig, Name, Parts, make_controller
from worldmodel.agents.driving import PlanResult, drive, id_of
from worldmodel.agents.mpc import Controller
from worldmodel.agents.planner import ActionBounds
from worldmodel.agents.policy import PolicyConfig, PolicyController, Proposals
from worldmodel.agents.simulator import History
from worldmodel.agents.workers import TaskWorkers
from worldmodel.checkpoint import Pretrained, read_checkpoint
from worldmodel.codec.frames import check_frames, decode_video
from worldmodel.envs import full_id, make_task
from worldmodel.errors import UserError
from worldmodel.generation import describe_frames, draw_pictures
from worldmodel.known_tasks import KEY, Actions, actions_of, known_task, units_of
from worldmodel.precision import choose_device
from worldmodel.rollout import PLANNING, Rollout, RolloutConfig

if TYPE_CHECKING:
    from worldmodel.envs.task import Task


@dataclass(repr=False)
class World(Pretrained):
    """A trained model with its tokenizer, its codec and the card of what it was trained on; see `from_pretrained`."""

    def __repr__(self) -> str:
        weights = sum(tensor.numel() for tensor in self.model.parameters())
        return f"World of {', '.join(self.tasks) or 'no task'}, {weights:,} weights on {self.model.device}"

    @property
    def tasks(self) -> dict[str, list[str]]:
        """Ids of the tasks that the model was trained on, with the names of the numbers of their actions."""
        return dict(self.card.get(KEY) or {})

    @property
    def image_size(self) -> int:
        """Height and width of a frame in pixels."""
        return self.codec.image_size

    def actions(self, task: str | None = None) -> Actions:
        """Size, range and block of a task's actions; the task may be left out where the model knows only one.

        Raises:
            UserError: the model was not trained on that task, or on several and none is named.
        """
        if task is None and len(self.tasks) != 1:
            raise UserError(f"the model was trained on {', '.join(self.tasks) or 'no task with actions'}: say of which one, with task")
        found = actions_of(self.card, known_task(self.card, task or next(iter(self.tasks))))
        if found.size * found.block > self.model.config.action_dim:
            raise UserError(f"the card's actions ({found}) do not fit the model's blocks of {self.model.config.action_dim} numbers")
        return found

    def dream(
        self,
        frames: np.ndarray,
        actions: np.ndarray,
        seed: int = 0,
        before: np.ndarray | None = None,
        task: str | None = None,
        config: RolloutConfig | None = None,
    ) -> np.ndarray:
        """Predict the frames that actions lead to.

        Args:
            frames: uint8 (t, height, width, 3) of the past, the newest last, or a single one (height, width, 3).
            actions: from the newest frame on: environment actions (h * block, a), or model steps (h, block * a).
            seed: of the noise.
            before: the actions between the frames, in either form of t - 1 model steps. Needed where there are several frames and
                the model reads actions of the past; a model with a stem sees frames alone.
            task: whose actions these are, where the model knows several.
            config: flow steps and form of the actions; by default one flow step, no jumps. More flow steps are crisper.

        Returns:
            uint8 (h, height, width, 3): one frame after each model step, or after each jump of `config`.

        Raises:
            UserError: frames or actions of another type, size or range than the model takes.
        """
        known, config = self.actions(task), config or RolloutConfig()
        seen, ahead = self._video(frames, "frames"), as_blocks(actions, known, "actions")
        if not len(ahead):
            raise UserError("actions are empty: give those of at least one model step")
        if before is not None:
            past = as_blocks(before, known, "before")
        elif len(seen) == 1 or self.model.config.references:
            past = np.zeros((len(seen) - 1, known.size * known.block), np.float32)
        else:
            raise UserError(
                f"the model reads the actions between the {len(seen)} frames, too: give them as before, or one frame alone"
            )
        if len(past) != len(seen) - 1:
            raise UserError(f"{len(seen)} frames have {len(seen) - 1} model steps between them, but before holds {len(past)}")
        rollout = self._rollout(config, task)
        state = rollout.encode(self.codec.encode_frames(seen)[None], torch.from_numpy(past)[None])
        dreamt = rollout.rollout(state, torch.from_numpy(ahead)[None, None], torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return decode_video(self.codec, dreamt[0])[0]

    def act(self, frames: np.ndarray, goal: np.ndarray, steps: int = 1, task: str | None = None) -> np.ndarray:
        """Propose the next actions towards a goal, without search.

        Args:
            frames: uint8 (t, height, width, 3) seen since the start, the newest last, or a single one. How many steps are left is
                what the model says at the first of them, counted down from frame to frame.
            goal: uint8 (height, width, 3).
            steps: model steps whose actions are wanted, at most as many as the model proposes.
            task: whose actions these are, where the model knows several.

        Returns:
            float32 (steps * block, a): environment actions in their order, within the task's range.

        Raises:
            UserError: the model was not taught to act; frames of another type or size.
        """
        known, actor = self.actions(task), self._actor(task)
        seen, wanted = self._video(frames, "frames"), self._frame(goal, "goal")
        bounds = ActionBounds((known.low,) * known.size, (known.high,) * known.size, known.block)
        proposals = Proposals(actor, self.codec, bounds, context=1, device=self.model.device)
        controller = PolicyController(proposals, PolicyConfig(steps))
        controller.reset(wanted[None], [0])
        history = History(seen[None], np.zeros((1, len(seen) - 1, bounds.dim), np.float32))
        return controller.act(history)[0].reshape(-1, known.size)

    def steps_to_go(self, frame: np.ndarray, goal: np.ndarray) -> float:
        """How many environment actions the model expects from a frame to a goal, both uint8 (height, width, 3).

        Raises:
            UserError: the model was not taught to act; frames of another type or size.
        """
        actor = self._actor()
        return float(actor.steps_to_go(self._latents(frame, "frame"), self._latents(goal, "goal"))[0])

    def caption(self, frame: np.ndarray, max_tokens: int = 128) -> str:
        """Say what is in a frame uint8 (height, width, 3), in at most so many tokens.

        Raises:
            UserError: a frame of another type or size.
        """
        return describe_frames(self.model, self.tokenizer, self._latents(frame, "frame"), max_tokens=max_tokens)[0]

    def answer(self, frame: np.ndarray, question: str, max_tokens: int = 128) -> str:
        """Answer a question about a frame uint8 (height, width, 3), in at most so many tokens.

        Raises:
            UserError: a frame of another type or size; the question is empty.
        """
        asked = [worded(question, "question")]
        return describe_frames(self.model, self.tokenizer, self._latents(frame, "frame"), asked, max_tokens)[0]

    def draw(self, text: str, seed: int = 0, num_steps: int = 25, guidance: float = 3.0) -> np.ndarray:
        """Draw a picture for a caption.

        Args:
            text: the caption.
            seed: of the noise.
            num_steps: flow steps.
            guidance: classifier-free guidance; 1 is none, at half the cost.

        Returns:
            uint8 (height, width, 3).

        Raises:
            UserError: the text is empty, or there are no flow steps.
        """
        if num_steps < 1:
            raise UserError(f"num_steps is {num_steps}, must be at least 1")
        generator, caption = torch.Generator().manual_seed(seed), worded(text, "text")
        latents = draw_pictures(self.model, self.tokenizer, [caption], generator, num_steps, guidance)
        with torch.no_grad():
            return decode_video(self.codec, latents[:, None])[0, 0]

    def plan(
        self,
        task: "Task | str",
        goal: np.ndarray | None = None,
        controller: Name = "guided",
        seed: int = 0,
        budget: int | None = None,
        config: EvaluateConfig | None = None,
        rollout: RolloutConfig = PLANNING,
    ) -> PlanResult:
        """Drive a task towards a goal, to the end of a budget.

        Args:
            task: from `make_task`, driven on from the state in which it is; or the name of one, which is begun with `seed`.
            goal: a state float64 (state,) of the task, as from `task.get_state()`; or a frame uint8 (height, width, 3), of which
                nobody can tell whether it was met; None: the task's own goal.
            controller: who chooses the actions: policy, guided, cem, mppi, random_shooting, random, oracle ...
            seed: of the search.
            budget: environment actions; by default as the task says.
            config: planner, objective, receding horizon.
            rollout: how futures are predicted.

        Raises:
            UserError: the model does not know the task; frames are of another size; the goal is none of the above; the budget is
                shorter than a model step; the controller cannot act with this model or this task.
        """
        if isinstance(task, str):
            made = make_task(known_task(self.card, task), image_size=self.image_size)
            try:
                made.reset(seed=seed)
                return self.plan(made, goal, controller, seed, budget, config, rollout)
            finally:
                made.close()
        name = known_task(self.card, id_of(task))
        known = self.actions(name)
        if task.image_size != self.image_size:
            raise UserError(
                f"the task draws {task.image_size} px, the model sees {self.image_size}: make_task(..., image_size={self.image_size})"
            )
        if known.size != len(task.action_names):
            raise UserError(f"actions of {name} have {len(task.action_names)} numbers here, {known.size} where the model was trained")
        budget = task.recording.budget if budget is None else budget
        if budget < known.block:
            raise UserError(f"budget is {budget} environment actions, shorter than a model step of {known.block}")
        shown, state = self._goal(task, goal)
        with TaskWorkers(name, self.image_size, known.block, workers=0) as workers:
            chosen = self.controller(workers, controller, seed, config, rollout)
            chosen.reset(shown[None], [seed])
            frames, actions, met = drive(task, chosen, budget // known.block, known.block, state)
        if state is None:
            return PlanResult(frames, actions, shown, None, None, None)
        return PlanResult(frames, actions, shown, bool(met.any()), bool(met[-1]), int(met.argmax()) + 1 if met.any() else None)

    def controller(
        self,
        workers: TaskWorkers,
        name: Name = "guided",
        seed: int = 0,
        config: EvaluateConfig | None = None,
        rollout: RolloutConfig = PLANNING,
    ) -> Controller:
        """Build what chooses the actions of a task.

        Args:
            workers: of the task, with frames and blocks of the model.
            name: as of `plan`.
            seed: of the search.
            config: planner, objective, receding horizon.
            rollout: how futures are predicted.

        Raises:
            UserError: the model does not know the task; the controller cannot act with this model or this task.
        """
        parts = Parts(
            bounds=ActionBounds.of_box(workers.action_space, workers.block),
            workers=workers,
            codec=self.codec,
            dynamics=self._rollout(rollout, workers.env_id),
            actor=actor_of(self, workers.env_id),
            device=self.model.device,
            jump=steps_per_frame(self, rollout),
        )
        return make_controller(replace(config or EvaluateConfig(), seed=seed), parts, name)

    def _goal(self, task: "Task", goal: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a goal's frame, and its state where that is known."""
        if goal is None:
            about = task.info()
            return about["goal"], about["goal_state"]
        given = np.asarray(goal)
        if given.dtype == np.uint8 or given.ndim != 1:
            return self._frame(given, "goal"), None
        return task.render_state(given), given

    def _rollout(self, config: RolloutConfig, task: str | None) -> Rollout:
        name = known_task(self.card, task or next(iter(self.tasks)))
        return rollout_of(self, name, self.actions(name).size, config)

    def _actor(self, task: str | None = None) -> Acting:
        actor = actor_of(self, full_id(task) if task else next(iter(self.tasks), ""))
        if actor is None:
            raise UserError("the model was not taught to act, there were no goals in its mixture: train one with a share of goals")
        return actor

    def _video(self, frames: Any, name: str) -> np.ndarray:
        """Frames (t, height, width, 3), of which one may come without its axis t."""
        given = np.asarray(frames)
        given = given[None] if given.ndim == 3 else given
        if given.ndim != 4 or not len(given):
            raise UserError(f"{name} have the shape {np.shape(frames)}, must be uint8 (t, {self.image_size}, {self.image_size}, 3)")
        check_frames(given, self.image_size)
        return given

    def _frame(self, frame: Any, name: str) -> np.ndarray:
        given = np.asarray(frame)
        if given.ndim != 3:
            raise UserError(f"{name} has the shape {given.shape}, must be one frame uint8 ({self.image_size}, {self.image_size}, 3)")
        check_frames(given, self.image_size)
        return given

    def _latents(self, frame: Any, name: str) -> Tensor:
        """Latents (1, tokens, channels) of a frame."""
        return self.codec.encode_frames(self._frame(frame, name)[None])


def from_pretrained(folder: Path | str, device: str = "auto") -> World:
    """Read a trained model.

    Args:
        folder: a checkpoint, or the folder of a run (its newest checkpoint) or of a quickstart.
        device: auto (the first GPU, else the CPU), cpu, cuda or cuda:N.

    Raises:
        UserError: as `worldmodel.checkpoint.read_checkpoint`; or the machine has no such device.
    """
    return World(**vars(read_checkpoint(folder, choose_device(device))))


def rollout_of(trained: Pretrained, env_id: str, action_size: int, config: RolloutConfig) -> Rollout:
    """Return the model's futures on a task, whose actions have so many numbers."""
    describe = describe_block(env_id, action_size) if config.action_form == "text" else None
    return Rollout(trained.model, trained.tokenizer, config, describe, units_of(trained.card, env_id))


def steps_per_frame(trained: Pretrained, rollout: RolloutConfig) -> int:
    """Return the model steps from one frame of the model's futures to the next: 1 where it knows no jumps."""
    return rollout.jump if trained.model.config.references else 1


def actor_of(trained: Pretrained, env_id: str) -> Acting | None:
    """Return the model's actions and steps to go on a task, if goals were among what it was trained on."""
    taught = any(source["kind"] in ("goal", "spoken goal") for source in trained.card.get("sources", []))
    return Acting(trained.model, trained.tokenizer, units_of(trained.card, env_id)) if taught else None


def worded(text: str, name: str) -> str:
    """Return a text that holds something."""
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{name} is {text!r}, must be some words")
    return text
