"""How often the 95 % intervals that are printed cover the truth, on made-up data of which the truth is known.

    python -m tests.coverage.simulate --draws 2000 --out docs/results/coverage.json

Each case draws data as a verb would measure them, clips, frames and problems of one episode alike, and asks the code that prints the
interval. `tests/coverage/test_coverage.py` checks the figures in the docs, and draws a few itself.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from worldmodel.agents.language import _accuracy
from worldmodel.agents.score import Outcomes, Score
from worldmodel.evaluation import by_horizon, rooted
from worldmodel.studies.ablation import FINDINGS, MEASURES, Variant, compare
from worldmodel.studies.scaling_fit import Curve, Exponent, difference, fit_parabolas, fit_surface
from worldmodel.studies.selections import KINDS, Selections
from worldmodel.studies.specialisation import SpecialisationConfig, analyse, pearson

Covers = Callable[[np.random.Generator], bool]
"""Draws data once, and says whether the interval covers the truth."""


def clips(rng: np.random.Generator, episodes: int, clips: int, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors (clips,) of clips of episodes, and these: log-normal, `alike` of the logarithms' variance is the episode's."""
    of_episode = rng.integers(0, episodes, clips)
    logarithm = alike**0.5 * rng.normal(size=episodes)[of_episode] + (1 - alike) ** 0.5 * rng.normal(size=clips)
    return np.exp(0.7 * logarithm), of_episode


def dream(rng: np.random.Generator) -> bool:
    """`worldmodel dream`: mean squared error of 128 clips of 60 held-out episodes."""
    errors, of_episode = clips(rng, 60, 128, 0.6)
    [(mean, half)] = by_horizon(torch.from_numpy(errors)[:, None], of_episode)
    return abs(mean - np.exp(0.7**2 / 2)) <= half


def dream_state(rng: np.random.Generator) -> bool:
    """`worldmodel dream`: root mean squared error of the state."""
    errors, of_episode = clips(rng, 60, 128, 0.6)
    [(root, half)] = rooted(by_horizon(torch.from_numpy(errors)[:, None], of_episode))
    return abs(root - np.exp(0.7**2 / 2) ** 0.5) <= half


def dream_few(rng: np.random.Generator) -> bool:
    """`worldmodel dream` on a small file: 128 clips of 12 held-out episodes, errors that are less skewed by averaging."""
    of_episode = rng.integers(0, 12, 128)
    errors = 1 + 0.3 * rng.normal(size=12)[of_episode] + 0.6 * rng.normal(size=128)
    [(mean, half)] = by_horizon(torch.from_numpy(errors)[:, None], of_episode)
    return abs(mean - 1) <= half


def ranking(rng: np.random.Generator) -> bool:
    """`worldmodel diagnose`: mean rank correlation of 16 problems of as many episodes."""
    [(mean, half)] = by_horizon(torch.from_numpy(np.tanh(0.8 + 0.4 * rng.normal(size=16)))[:, None], np.arange(16))
    return abs(mean - RANKING) <= half


PLACES, WEIGHTS = np.polynomial.hermite.hermgauss(60)
RANKING = float(np.tanh(0.8 + 0.4 * np.sqrt(2) * PLACES) @ WEIGHTS / np.sqrt(np.pi))
"""The mean that `ranking` draws around."""


def planning(problems: int, episodes: int, rate: float, alike: float, streams: int = 1) -> Covers:
    """`worldmodel evaluate`: success of problems that are dealt to episodes in turn; `alike`: of one episode all succeed or none."""

    def covers(rng: np.random.Generator) -> bool:
        of_episode = np.arange(problems) % episodes
        chance = np.full(problems, rate)
        if alike:
            spread = (1 - alike) / alike
            chance = rng.beta(rate * spread, (1 - rate) * spread, episodes)[of_episode]
        tries = rng.random((streams, problems)) < chance
        nothing = [0.0] * problems
        outcomes = [Outcomes(row.tolist(), row.tolist(), [None] * problems, nothing, nothing) for row in tries]
        score = Score("x", outcomes, 1, 0.0, 0.0, 0.0, of_episode.tolist())
        return score.interval[0] <= rate <= score.interval[1]

    return covers


def captions(frames: int, episodes: int, rate: float, alike: float) -> Covers:
    """`worldmodel generate`: right captions of frames that are dealt to episodes in turn."""

    def covers(rng: np.random.Generator) -> bool:
        of_episode = np.arange(frames) % episodes
        spread = (1 - alike) / alike
        right = rng.random(frames) < rng.beta(rate * spread, (1 - rate) * spread, episodes)[of_episode]
        low, high = _accuracy("caption", ["red"] * frames, ["red" if each else "blue" for each in right], of_episode).interval
        return low <= rate <= high

    return covers


def ablation(seeds: int) -> Covers:
    """`worldmodel ablate`: gain over paired seeds."""
    finding, first, second = FINDINGS[0], Variant("rae", "modality"), Variant("vae", "modality")
    sign = MEASURES[finding.measure].sign

    def covers(rng: np.random.Generator) -> bool:
        common = rng.normal(size=seeds)
        runs = {}
        for variant, mean in ((first, 1.0), (second, 1.2)):
            for seed in range(seeds):
                runs[variant.name, seed] = {finding.measure: mean + common[seed] + 0.1 * rng.normal()}
        interval = compare(finding, first, second, runs).interval
        assert interval is not None
        return interval[0] <= sign * (1.0 - 1.2) <= interval[1]

    return covers


ALPHA, BETA, A, B = 0.34, 0.28, 400.0, 410.0


def grid(noise: np.ndarray, strength: float = 0.001) -> Curve:
    """Losses of five sizes around the optimum of each of four budgets, with noise (20,) of deviation 1."""
    flops = np.repeat([1e18, 3e18, 1e19, 3e19], 5)
    best = (ALPHA * A / (BETA * B) * (flops / 6) ** BETA) ** (1 / (ALPHA + BETA))
    parameters = best * np.tile(np.geomspace(0.4, 2.5, 5), 4)
    tokens = flops / 6 / parameters
    loss = 1.7 + A * parameters**-ALPHA + B * tokens**-BETA
    return Curve(flops, parameters, tokens, loss * (1 + strength * noise))


def within(exponent: Exponent | None, truth: float) -> bool:
    assert exponent is not None and exponent.low is not None and exponent.high is not None
    return exponent.low <= truth <= exponent.high


def parabolas(rng: np.random.Generator) -> bool:
    """`worldmodel isoflop`: b by approach 2, near the optima, where parabolas are hardly biased."""
    return within(fit_parabolas(grid(rng.normal(size=20)), 200, int(rng.integers(2**31))).b, ALPHA / (ALPHA + BETA))


def surface(rng: np.random.Generator) -> bool:
    """`worldmodel isoflop`: b by approach 3."""
    return within(fit_surface(grid(rng.normal(size=20)), 100, int(rng.integers(2**31))).b, ALPHA / (ALPHA + BETA))


def gap(rng: np.random.Generator) -> bool:
    """`worldmodel isoflop`: b of vision minus b of language, losses of the same runs, whose noise is partly the same."""
    common, seed = rng.normal(size=20), int(rng.integers(2**31))
    first, second = (fit_parabolas(grid(0.8 * common + 0.6 * rng.normal(size=20)), 200, seed).b for _ in range(2))
    return within(difference(first, second), 0.0)


def experts(rng: np.random.Generator) -> bool:
    """`worldmodel experts`: correlation of two selection rates over 16 experts, from 32 batches that differ."""
    return rates_of_experts(rng)


def rates_of_experts(rng: np.random.Generator, own: float = 1.0, tokens: int = 4000, alike: float = 400.0) -> bool:
    """The same.

    Args:
        rng: of everything.
        own: what the two rates do not share, beside what they do.
        tokens: of a batch.
        alike: how much alike batches are.
    """
    batches, number = 32, 16
    rates = rng.gamma(4.0, size=number) + own * rng.gamma(4.0, size=(2, number))
    rates /= rates.sum(1, keepdims=True)
    drawn = [np.stack([rng.multinomial(tokens, rng.dirichlet(alike * rate)) for _ in range(batches)]) for rate in rates]
    counts = {kind: torch.ones(batches, 1, number, dtype=torch.float64) for kind in KINDS}
    counts |= {kind: torch.from_numpy(drawn[k])[:, None].double() for k, kind in enumerate(("understanding", "generation"))}
    frames = torch.ones(4, 1, number, dtype=torch.float64)
    config = SpecialisationConfig(resamples=300, seed=int(rng.integers(2**31)))
    [report] = analyse(Selections(counts, frames, torch.linspace(0, 0.9, 4)), config)
    assert report.correlation_interval is not None
    return report.correlation_interval[0] <= float(pearson(*map(torch.from_numpy, rates))) <= report.correlation_interval[1]


CASES: dict[str, Covers] = {
    "dream, 128 clips of 60 episodes": dream,
    "dream, error of the state": dream_state,
    "dream, 128 clips of 12 episodes": dream_few,
    "diagnose, rank correlation of 16 problems": ranking,
    "evaluate, 50 problems of 50 episodes": planning(50, 50, 0.3, 0.0),
    "evaluate, 100 problems of 60 episodes": planning(100, 60, 0.6, 0.5),
    "evaluate, 120 problems of 20 episodes": planning(120, 20, 0.5, 0.3),
    "evaluate, 50 problems tried 3 times": planning(50, 50, 0.4, 0.6, 3),
    "generate, 200 captions of 60 episodes": captions(200, 60, 0.8, 0.5),
    "generate, 60 answers of 30 episodes": captions(60, 30, 0.6, 0.3),
    "ablate, 3 seeds": ablation(3),
    "ablate, 5 seeds": ablation(5),
    "isoflop, approach 2": parabolas,
    "isoflop, approach 3": surface,
    "isoflop, vision minus language": gap,
    "experts, understanding and generation": experts,
}
"""By what prints the interval, and of what."""
SLOW = ("isoflop, approach 3",)
"""A tenth of a second and more a draw."""


def coverage(covers: Covers, draws: int, seed: int = 0) -> float:
    """Share of the draws whose interval covers the truth."""
    return float(np.mean([covers(np.random.default_rng([seed, i])) for i in range(draws)]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = {}
    for name in tqdm([name for name in CASES if given.only in name], unit="case", disable=None):
        found[name] = coverage(CASES[name], given.draws)
        print(f"{name:<45} {found[name]:.1%}", flush=True)
    if given.out is not None:
        record = {"command": "python -m tests.coverage.simulate", "draws": given.draws, "level": 0.95, "coverage": found}
        given.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
