"""The whole loop in minutes: collect, train codec and model, dream, write and draw, plan, and a report of it all.

What is not asked for is as the task says (its `Recording`). The planning problems are drawn right after the collection: too few
of them are a mistake that shows before anything is trained. Every stage leaves its files in one folder and is skipped or continued
when the same command runs again.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image

from worldmodel.agents import diagnosis, ladder, model_score, score_tables
from worldmodel.agents.controllers import EvaluateConfig
from worldmodel.agents.diagnosis import LadderConfig, climb
from worldmodel.agents.evaluate import check_budget, scores_to_json
from worldmodel.agents.language import LanguageScore, score_language
from worldmodel.agents.plan_film import plan_film
from worldmodel.agents.protocol import Manifest, ManifestConfig, make_manifest
from worldmodel.agents.reader import ReaderConfig
from worldmodel.agents.report import Curves, Picture, Section, SectionRow, Table, TextSection, Video, write_report
from worldmodel.agents.score import Score
from worldmodel.agents.world import rollout_of
from worldmodel.benchmarks.quickstart_estimate import as_sentence, estimate
from worldmodel.checkpoint import Pretrained, read_checkpoint, save_pretrained
from worldmodel.codec.frames import frames_to_float, frames_to_uint8
from worldmodel.codec.training import CodecConfig, train_codec
from worldmodel.codec.training_frames import codec_data
from worldmodel.datasets.collection.collect import collect
from worldmodel.datasets.collection.recording import CollectConfig
from worldmodel.datasets.films import write_film
from worldmodel.datasets.mixture.training_data import MixtureConfig, TrainingData, check_packages, open_training_data
from worldmodel.dream_film import WIDTH, film, table
from worldmodel.envs import full_id, make_task, short_name
from worldmodel.envs.recording import Recording
from worldmodel.errors import UserError
from worldmodel.evaluation import DreamConfig, DreamErrors, TextScore, draw_clips, dream_errors, score_text, within
from worldmodel.generation import continue_text
from worldmodel.home import runs_dir
from worldmodel.precision import choose_device
from worldmodel.presets import tiny, with_seed
from worldmodel.rollout import PLANNING, RolloutConfig
from worldmodel.scripts.console import command, run_verb
from worldmodel.scripts.generate import draw
from worldmodel.scripts.json_flag import JsonFlag
from worldmodel.scripts.preset_flag import PresetFlag
from worldmodel.system_info import command_line, commit, machine
from worldmodel.training.metric_rows import read_rows
from worldmodel.training.pretrain import PretrainConfig, pretrain
from worldmodel.training.resume import locked_run_folder, release

logger = logging.getLogger(__name__)

PROMPTS = ("The Congress of the United States", "Our economy", "I recommend that")


@dataclass(frozen=True)
class QuickstartConfig(JsonFlag):
    """Collect, train codec and model, dream, write and draw, plan, and report it all.

    `worldmodel quickstart --task PushT --seed 1` takes minutes; `--train.steps` and its like change any stage.
    """

    out: Path | None = None
    """Folder of everything; by default `quickstart-<task>-<seed>` in the runs folder of WORLDMODEL_HOME."""
    seed: int = 0
    """Of data, weights, training, problems and planning."""
    task: str = "TwoRoom"
    """Task: a name such as PushT, or the id of any gymnasium environment."""
    episodes: int | None = None
    """Episodes to collect; by default as the task says."""
    steps: int | None = None
    """Actions per episode; by default as the task says."""
    variation: tuple[str, ...] | None = None
    """Factors of variation to sample in each episode; by default as the task says."""
    policies: dict[str, float] = field(default_factory=dict)
    """Who plays while collecting, by share of the episodes; by default as the task says."""
    workers: int = 2
    """Processes that collect and simulate."""
    vocab_size: int = 1024
    """Largest vocabulary of the tokenizer."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Shares of the sources."""
    codec: CodecConfig = field(default_factory=lambda: CodecConfig(kind="pixels"))
    """The codec and its training; principal components of small patches, which lose nothing that moves."""
    preset: PresetFlag = field(default_factory=tiny)
    """The model and its training."""
    dream: DreamConfig = field(default_factory=lambda: DreamConfig(horizon=0))
    """Clips to dream."""
    language_frames: int = 200
    """Held-out frames to caption and ask about."""
    problems: ManifestConfig = field(default_factory=ManifestConfig)
    """Planning problems."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Planner, objective, receding horizon."""
    rollout: RolloutConfig = PLANNING
    """Flow steps per frame while dreaming and planning."""
    ladder: LadderConfig = field(default_factory=lambda: LadderConfig(reader=ReaderConfig(steps=800)))
    """How it is found out where the model fails."""


@dataclass
class Results:
    """What the report is made of."""

    data: TrainingData
    trained: Pretrained
    codec_report: dict[str, Any]
    dream: DreamErrors
    text: TextScore
    continued: dict[str, str]
    language: LanguageScore
    drawn: dict[str, np.ndarray]
    manifest: Manifest
    scores: list[Score]
    goals: np.ndarray
    rungs: list[ladder.LadderRow]
    seconds: dict[str, float]


def main(config: QuickstartConfig) -> dict[str, Any]:
    """Run the missing stages and end with the table of success rates."""
    recording = make_task(config.task).recording
    config = as_the_task_says(config, recording)
    name = short_name(config.task).replace("/", "-")
    out = config.out or runs_dir() / f"quickstart-{name}-{config.seed}"
    out.mkdir(parents=True, exist_ok=True)
    with locked_run_folder(out, settings_of(config) | {"out": None}):
        try:
            announce(config, recording, out)
            results = run(config, out)
        except UserError:
            if not (out / "codec").exists():  # what was found wrong before any training must not bind the folder to its settings
                release(out)
            raise
        if results is None:
            return {"finished": False}
        record = write(config, results, out)
    print(table(results.dream))
    print()
    for accuracy in results.language.accuracies:
        low, high = accuracy.interval
        print(f"{accuracy.name}: {accuracy.rate:.1%} [{low:.1%}, {high:.1%}], chance {accuracy.chance:.1%}")
    print()
    print(score_tables.as_text(results.scores))
    print(f"\n{ladder.weakest(results.rungs).sentence}")
    print(f"\n{sum(record['seconds'].values()) / 60:.1f} minutes. Open {out / 'report.html'}")
    print(f"next: {command('generate', '--checkpoint', out / 'checkpoint', '--text', 'Our economy')}")
    return record


def settings_of(config: QuickstartConfig) -> dict[str, Any]:
    """Return the configuration as JSON values; how it is printed is none of it."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    del settings["json"]
    return settings


def as_the_task_says(config: QuickstartConfig, recording: Recording) -> QuickstartConfig:
    """Fill in all that the configuration leaves open, as the task says."""
    mixture = config.mixture
    if mixture.action_block == MixtureConfig.action_block:
        mixture = replace(mixture, action_block=recording.action_block)
    return replace(
        config,
        task=full_id(config.task),
        episodes=recording.episodes if config.episodes is None else config.episodes,
        steps=recording.max_steps if config.steps is None else config.steps,
        variation=recording.variation if config.variation is None else config.variation,
        policies=config.policies or dict(recording.policies),
        mixture=mixture,
    )


def collection(config: QuickstartConfig, out: Path) -> CollectConfig:
    """Configure the collection of episodes."""
    assert config.episodes is not None and config.steps is not None and config.variation is not None, "filled in by the task"
    return CollectConfig(
        config.task,
        out / "episodes.h5",
        config.episodes,
        config.seed,
        config.workers,
        config.policies,
        max_steps=config.steps,
        variation=config.variation,
    )


def announce(config: QuickstartConfig, recording: Recording, out: Path) -> None:
    """Print what will be done, and about how long it will take."""
    episodes, problems = collection(config, out), config.problems
    shares = ", ".join(f"{name} {share:g}" for name, share in config.policies.items())
    print(
        f"{config.task}: {episodes.episodes} episodes of {episodes.max_steps} actions ({shares}), a codec, "
        f"{config.preset.train.steps} training steps, {problems.problems} planning problems; all of it goes to {out}"
    )
    if not episodes.path.exists():  # else some stages are done, nobody knows how much is left
        budget = problems.budget or recording.budget * (2 if problems.goals == "elsewhere" else 1)
        print(as_sentence(estimate(episodes, config.codec, config.preset, problems.problems * budget)), flush=True)


def run(config: QuickstartConfig, out: Path) -> Results | None:
    """Run all stages in order; None if training was asked to stop."""
    device, seconds = choose_device(config.preset.train.device), dict[str, float]()
    settings = PretrainConfig(with_seed(config.preset, config.seed), config.vocab_size, config.mixture)
    check_replanning(config)
    check_packages(config.mixture)
    with stage("collect", seconds):
        collected = collect(collection(config, out))
        data = open_training_data([collected.path], config.mixture)
        manifest = make_manifest(data.stores[0], data.held_out_episodes[0], "episodes.h5", replace(config.problems, seed=config.seed))
        manifest.save(out / "manifest.json")
        check_measurements(config, data, manifest)
    with stage("codec", seconds):
        _, codec_report = train_codec(
            replace(config.codec, seed=config.seed), codec_data(data), out / "codec", device, tensorboard=out / "tensorboard"
        )
    with stage("pretrain", seconds):
        trained_to = pretrain(settings, [collected.path], out / "codec", out / "pretrain")
    if not trained_to.finished:
        print(f"stopped after training step {trained_to.step}; the same command goes on from there")
        return None
    trained = read_checkpoint(trained_to.checkpoint, device)
    model, tokenizer = trained.model, trained.tokenizer
    save_pretrained(out / "checkpoint", model, tokenizer, trained.codec, trained.card)
    store, held_out, block = data.stores[0], data.held_out_episodes[0], config.mixture.action_block
    with stage("dream", seconds):
        rollout = rollout_of(trained, store.meta["env_id"], store.action_size, replace(config.rollout, jump=1))
        dream = dream_errors(rollout, trained.codec, store, held_out, block, replace(config.dream, seed=config.seed))
    with stage("language", seconds):
        text = score_text(model, tokenizer, [doc[:1000] for doc in data.held_out_texts])
        said = continue_text(model, tokenizer, PROMPTS, max_tokens=30)
        language = score_language(model, tokenizer, trained.codec, store, held_out, config.language_frames, config.seed)
        captions = list(dict.fromkeys(true for true, _ in language.captions))[:6]
        drawn = dict(zip(captions, draw(trained, tuple(captions), config.seed), strict=True))
    with stage("plan", seconds):
        scores, goals = model_score.score(
            trained, manifest, block, replace(config.evaluate, seed=config.seed), config.rollout, config.workers
        )
    with stage("diagnose", seconds):
        rungs = climb(
            trained,
            store,
            held_out,
            manifest,
            block,
            config.ladder,
            config.seed,
            scores,
            planning=replace(config.evaluate, seed=config.seed, videos=0),
            rollout=config.rollout,
            workers=config.workers,
        )
    continued = dict(zip(PROMPTS, said, strict=True))
    return Results(data, trained, codec_report, dream, text, continued, language, drawn, manifest, scores, goals, rungs, seconds)


def check_replanning(config: QuickstartConfig) -> None:
    """Refuse to act longer without a look than the model says actions, before anything is trained.

    Raises:
        UserError: naming the field.
    """
    told, asked = config.preset.model.action_horizon, config.evaluate
    for name, steps in (("policy", asked.policy.replan_every), ("guided", asked.guided.replan_every)):
        if steps > told:
            raise UserError(
                f"evaluate.{name}.replan_every is {steps}, but the model says the actions of {told} model steps: "
                "lower the one or raise the other (model.action_horizon)"
            )


def check_measurements(config: QuickstartConfig, data: TrainingData, manifest: Manifest) -> None:
    """Refuse what cannot be measured on these data once a model is trained.

    Raises:
        UserError: there is no held-out text, a dream is longer than the episodes, or a problem's budget shorter than a model step.
    """
    store, held_out, block = data.stores[0], data.held_out_episodes[0], config.mixture.action_block
    if not data.held_out_texts:
        raise UserError("the mixture has no held-out text, which a quickstart measures: give it a share with --mixture.text")
    check_budget(manifest, block)
    draw_clips(store, held_out, block, within(config.dream, store, held_out, block))


@contextmanager
def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Announce a stage and measure its time."""
    logger.info("== %s", name)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
    logger.info("   %s took %.0f s", name, seconds[name])


def write(config: QuickstartConfig, results: Results, out: Path) -> dict[str, Any]:
    """Write films, report.html and report.json; returns the latter's content."""
    write_film(out / "dream.mp4", film(results.dream.truth[:6], results.dream.dream[:6]))
    Image.fromarray(strip(results.dream)).save(out / "dream.png")
    for score in results.scores:
        for i in sorted(score.frames)[:3]:
            write_film(out / f"plan_{score.name}_{i}.mp4", plan_film(score, results.goals, [i], config.mixture.action_block))
    record = {
        "made_by": {"command": command_line("quickstart"), "commit": commit(), **machine("torch", "mujoco")},
        "config": settings_of(config),
        "planning": scores_to_json(results.manifest, results.scores, config.evaluate),
        "ladder": diagnosis.to_json(results.rungs, ladder.weakest(results.rungs)),
        "dream": results.dream.to_json(),
        "text": asdict(results.text),
        "continued": results.continued,
        "language": [accuracy.to_json() for accuracy in results.language.accuracies],
        "codec": results.codec_report,
        "seconds": results.seconds,
    }
    shown = sections(results, out, config.mixture.action_block)
    write_report(out / "report.html", shown, f"worldmodel quickstart, seed {config.seed}", record)
    return record


def sections(results: Results, out: Path, block: int) -> list[Section]:
    """Lay out the report from the question it answers to the details; a model step is `block` env steps."""
    return [
        *score_tables.sections(results.scores, results.goals, block),
        *diagnosis.sections(results.rungs, ladder.weakest(results.rungs)),
        *dream_sections(results.dream, out),
        *language_sections(results),
        *training_sections(results, out),
        Table(
            "Where the time went",
            ("stage", "seconds"),
            [[name, f"{value:.0f}"] for name, value in results.seconds.items()],
            "Stages that were already done when the command ran again count only what they took this time.",
        ),
    ]


def dream_sections(dream: DreamErrors, out: Path) -> list[Section]:
    """Show the film and the errors by horizon."""
    curves = {name: ([h + 1.0 for h in range(len(values))], [mean for mean, _ in values]) for name, values in dream.latent.items()}
    return [
        Video(
            "Dreams of held-out episodes",
            (out / "dream.mp4").read_bytes(),
            "Truth above, dream below; the dream sees the first frames and the actions only.",
            width=WIDTH,
        ),
        Picture("The same frame by frame", strip(dream), "Each pair of rows is truth above dream.", scale=1),
        Curves("Dream error", curves, "model steps ahead", "mean squared error of the latents"),
    ]


def strip(dream: DreamErrors, clips: int = 3) -> np.ndarray:
    """Lay out frames of a few clips in time, truth above dream: uint8 picture."""
    context = dream.truth.shape[1] - dream.dream.shape[1]
    rows = []
    for truth, dreamt in zip(dream.truth[:clips], dream.dream[:clips], strict=True):
        rows += [np.concatenate(list(truth), 1), np.concatenate([*truth[:context], *dreamt], 1)]
    return np.concatenate(rows, 0)


def language_sections(results: Results) -> list[Section]:
    """Show captions, answers, drawn pictures and continued text."""
    language = results.language
    captions = [
        [true, written, f"{question} {right}", said]
        for (true, written), (question, right, said) in zip(language.captions[:8], language.answers[:8], strict=True)
    ]
    accuracies = [
        [a.name, f"{a.rate:.1%}", f"{a.interval[0]:.1%} - {a.interval[1]:.1%}", f"{a.chance:.1%}"] for a in language.accuracies
    ]
    text = results.text
    return [
        SectionRow("Pictures drawn for captions", [Picture("", pixels, caption) for caption, pixels in results.drawn.items()]),
        Table("What the model says of held-out frames", ("true", "said", "asked", "answered"), captions),
        Table("Share of right answers", ("what", "right", "95 % interval", "chance"), accuracies),
        TextSection(
            "Text",
            "\n\n".join(f"{prompt}|{said}" for prompt, said in results.continued.items())
            + f"\n\nHeld-out text: {text.model:.3f} bits per byte; a unigram model {text.unigram:.3f}.",
        ),
    ]


def newest_shares(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Collect each source's newest share of the tokens in a log, as cells; rows of validation and samples have none."""
    newest = {name: value for row in rows for name, value in row.items() if name.startswith("data/share/")}
    return [[name.removeprefix("data/share/"), f"{value:.1%}"] for name, value in sorted(newest.items())]


def training_sections(results: Results, out: Path) -> list[Section]:
    """Show the losses, the codec, and what was drawn from the mixture."""
    rows = read_rows(out / "pretrain" / "metrics.jsonl")
    losses = {
        name: ([row["step"] for row in rows if name in row], [row[name] for row in rows if name in row])
        for name in ("loss/text", "loss/flow", "loss/flow_high_noise")
    }
    store, codec = results.data.stores[0], results.trained.codec
    frames = store.frames(store.frame_rows(results.data.held_out_episodes[0][:8])[:: max(1, int(store.lengths[0]))][:8])
    reconstruction = frames_to_uint8(codec.decode(codec.encode(frames_to_float(frames, codec.mean.device))))
    pair = rearrange(np.stack([frames, reconstruction]), "two b h w c -> (two h) (b w) c")
    variants = results.codec_report["objectives"]
    probes = [[name, c["probe"]["r2"]] for name, c in variants.items()]
    psnr = results.codec_report["reconstruction"]["psnr"]
    return [
        Curves("Training", losses, "step", "loss", log_y=True),
        Table("Share of each source in the tokens", ("source", "share"), newest_shares(rows)),
        Table(
            "Encoders tried",
            ("objective", "R^2 of a linear probe of the true state"),
            probes,
            f"Chosen: {results.codec_report['chosen']}. Its decoder: PSNR {psnr:.1f} dB on held-out frames.",
        ),
        Picture("Codec: held-out frames above their reconstructions", pair),
    ]


if __name__ == "__main__":
    sys.exit(run_verb("quickstart", lambda: main, sys.argv[1:]))
