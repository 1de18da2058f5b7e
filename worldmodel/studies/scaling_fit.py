"""Compute-optimal sizes from losses: parabolas per budget, and one surface through all runs, with bootstrap intervals.

Both ways of Hoffmann et al. (arXiv 2203.15556) are fitted, and both are reported, since they fail differently:

- approach 2: of the runs of one budget C the loss is a parabola in log N; the optima of the budgets follow N_opt ~ C^a, D_opt ~ C^b.
  Its exponents are biased where the loss is no parabola: on wide grids, on grids that are not centered on the optimum, and
  where model and data weigh differently (arXiv 2603.22339). An optimum outside its grid is left out and said, never extrapolated.
- approach 3: L = E + A / N^alpha + B / D^beta through all runs, from which a = beta / (alpha + beta), b = alpha / (alpha + beta). By
  variable projection: for given exponents E, A and B are a linear least-squares problem with no negative answer, so that only two
  numbers are searched. It has no such bias, but is wide open where the runs hardly span N and D. The errors are least squares of
  the loss, where Hoffmann et al. take a Huber loss of its logarithm; and it takes C to be proportional to N D, so a + b = 1.

N is the number of active parameters, as arXiv 2603.03276 counts it for its mixtures of experts; D counts tokens of all modalities.

Intervals are 95 % percentiles of a residual bootstrap: the fitted losses plus residuals drawn with replacement, scaled up for the
degrees of freedom that the fit took, and by Student's quantile over the normal one for those that are left. One seed draws the same
places for every curve of as many runs, so that text and vision losses of the same runs vary together. The intervals hold the scatter
about the fit, not the luck of a seed that all runs share.

Axes: m runs, g pairs of exponents, r replicates.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.special import stdtrit

EXPONENTS = (0.03, 3.0)
"""Where alpha and beta are searched."""
LEAST_PART = 1e-3
"""Share of the range of the losses below which a term of the surface counts as absent."""
LOST_REPLICATES = 0.1
"""Share of replicates without an exponent above which no interval is given."""


@dataclass(frozen=True)
class Curve:
    """The runs of one kind of model, and their losses on one modality; arrays (m,)."""

    flops: np.ndarray
    """Budget of each run; runs of the same number are compared."""
    parameters: np.ndarray
    """N, active parameters."""
    tokens: np.ndarray
    """D, tokens trained on."""
    loss: np.ndarray
    """Held-out loss."""


@dataclass(frozen=True)
class Exponent:
    """An exponent with its 95 % interval, which is None where it cannot be estimated."""

    value: float
    low: float | None
    high: float | None
    replicates: np.ndarray
    """(r,) bootstrap values; NaN where a replicate had none."""

    def to_json(self) -> dict[str, float | None]:
        """Return the exponent without its replicates."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Optimum:
    """The parabola of one budget."""

    flops: float
    """The budget."""
    polynomial: tuple[float, float, float]
    """Loss as c2 x^2 + c1 x + c0 of x = ln N."""
    parameters: float
    """N at the lowest point; NaN where there is none."""
    tokens: float
    """D there."""
    problem: str
    """Why it is not used: too few sizes, no minimum, optimum outside the grid; empty where it is."""


@dataclass(frozen=True)
class ParabolaFit:
    """Approach 2."""

    optima: tuple[Optimum, ...]
    a: Exponent | None
    """N_opt ~ C^a."""
    b: Exponent | None
    """D_opt ~ C^b."""
    problem: str
    """Why there are no exponents, or what makes them doubtful."""


@dataclass(frozen=True)
class SurfaceFit:
    """Approach 3: loss = floor + A / N^alpha + B / D^beta."""

    floor: float
    """E, the loss that no size and no amount of data gets below."""
    size_coefficient: float
    """A."""
    alpha: float
    data_coefficient: float
    """B."""
    beta: float
    residual: float
    """Root mean square, in the loss's unit."""
    a: Exponent | None
    b: Exponent | None
    problem: str

    def predict(self, parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Predict the losses of models of N parameters after D tokens."""
        return self.floor + self.size_coefficient * parameters**-self.alpha + self.data_coefficient * tokens**-self.beta


def fit_parabolas(curve: Curve, replicates: int, seed: int) -> ParabolaFit:
    """Fit approach 2 to all budgets, with intervals."""
    budgets = [np.flatnonzero(curve.flops == flops) for flops in np.unique(curve.flops)]
    optima = tuple(_optimum(curve, at) for at in budgets)
    used = [(optimum, at) for optimum, at in zip(optima, budgets, strict=True) if not optimum.problem]
    problem = "; ".join(f"{o.flops:.3g} FLOPs: {o.problem}" for o in optima if o.problem)
    if len(used) < 2:
        return ParabolaFit(optima, None, None, f"fewer than two budgets have an optimum inside their grid ({problem})")
    log_flops = np.log([optimum.flops for optimum, _ in used])
    a = _slope(log_flops, np.log([[optimum.parameters for optimum, _ in used]]))[0]
    b = _slope(log_flops, np.log([[optimum.tokens for optimum, _ in used]]))[0]
    fitted = curve.loss.copy()
    for optimum, at in zip(optima, budgets, strict=True):
        if len(at) >= 3:
            fitted[at] = np.polyval(optimum.polynomial, np.log(curve.parameters[at]))
    freedom = sum(len(at) - 3 for at in budgets if len(at) >= 3)
    if freedom < 1:
        empty = np.full(replicates, np.nan)
        few = "every budget has three sizes: nothing is left to tell the noise by, so there are no intervals"
        return ParabolaFit(
            optima, Exponent(a, None, None, empty), Exponent(b, None, None, empty), "; ".join(filter(None, [problem, few]))
        )
    in_parabolas = np.concatenate([at for at in budgets if len(at) >= 3])
    residual = (curve.loss - fitted)[in_parabolas] * _inflation(len(in_parabolas), freedom)
    draws = np.random.default_rng(seed).integers(0, len(residual), (replicates, len(curve.loss)))
    losses = fitted + residual[draws]  # (r, m)
    vertices = [_vertex(curve, at, losses[:, at]) for _, at in used]
    log_n, log_d = (np.stack([vertex[k] for vertex in vertices], 1) for k in (0, 1))
    return ParabolaFit(optima, _exponent(a, _slope(log_flops, log_n)), _exponent(b, _slope(log_flops, log_d)), problem)


def _optimum(curve: Curve, at: np.ndarray) -> Optimum:
    flops, size = float(curve.flops[at[0]]), np.log(curve.parameters[at])
    if len(np.unique(size)) < 3:
        return Optimum(flops, (0.0, 0.0, float(curve.loss[at].mean())), np.nan, np.nan, "too few sizes, a parabola needs three")
    c2, c1, c0 = np.polyfit(size, curve.loss[at], 2).tolist()
    log_n, log_d = (float(value[0]) for value in _vertex(curve, at, curve.loss[None, at]))
    problem = ""
    if c2 <= 0:
        log_n, log_d, problem = np.nan, np.nan, "no minimum, the losses do not bend upwards"
    elif not size.min() <= log_n <= size.max():
        problem = f"optimum outside the grid, {'below' if log_n < size.min() else 'above'} all sizes"
    return Optimum(flops, (c2, c1, c0), float(np.exp(log_n)), float(np.exp(log_d)), problem)


def _vertex(curve: Curve, at: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute (ln N, ln D) at the lowest points of parabolas through losses (r, m of this budget); NaN where they bend down."""
    size, data = np.log(curve.parameters[at]), np.log(curve.tokens[at])
    middle = size.mean()
    c2, c1, _ = np.linalg.lstsq(np.vander(size - middle, 3), losses.T, rcond=None)[0]  # (r,) each
    with np.errstate(divide="ignore", invalid="ignore"):
        log_n = np.where(c2 > 0, middle - c1 / (2 * c2), np.nan)
    slope, start = np.polyfit(size - middle, data, 1)  # of one budget D is all but a power of N
    return log_n, start + slope * (log_n - middle)


def _inflation(count: int, freedom: int) -> float:
    """Compute the factor that corrects residuals for the degrees of freedom that a fit took, and for how few are left (Student)."""
    return math.sqrt(count / freedom) * student(freedom) / 1.959964


def _slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the slopes (r,) of straight lines through x (k,) and y (r, k)."""
    centred = x - x.mean()
    return y @ centred / (centred @ centred)


def _exponent(value: float, replicates: np.ndarray) -> Exponent:
    there = replicates[np.isfinite(replicates)]
    if len(there) < max(2, (1 - LOST_REPLICATES) * len(replicates)):
        return Exponent(float(value), None, None, replicates)
    low, high = np.quantile(there, [0.025, 0.975], method="weibull").tolist()  # without a bias inwards where replicates are few
    return Exponent(float(value), low, high, replicates)


def fit_surface(curve: Curve, replicates: int, seed: int) -> SurfaceFit:
    """Fit approach 3, with intervals."""
    count = len(curve.loss)
    if count < 6:
        return SurfaceFit(
            np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, None, None, f"{count} runs are too few for the five numbers of the surface"
        )
    log_n, log_d = np.log(curve.parameters), np.log(curve.tokens)
    middles = log_n.mean(), log_d.mean()
    x, y = log_n - middles[0], log_d - middles[1]
    start = np.log(np.geomspace(*EXPONENTS, 24))
    (alpha, beta), (floor, size, data), error = _search(x, y, curve.loss, start[:, None], start[None, :], start[1] - start[0])
    of_size, of_data = size * np.exp(-alpha * x), data * np.exp(-beta * y)
    fitted = floor + of_size + of_data
    residual = (curve.loss - fitted) * _inflation(count, count - 5)
    found = np.full((replicates, 2), np.nan)
    draws = np.random.default_rng(seed).integers(0, count, (replicates, count))
    near = np.linspace(-0.6, 0.6, 7)
    for i, draw in enumerate(draws):
        centre = np.log(alpha) + near[:, None], np.log(beta) + near[None, :]
        found[i] = _search(x, y, fitted + residual[draw], *centre, 0.2, finest=1e-3)[0]
    shares = found / found.sum(1, keepdims=True)
    a, b = _exponent(beta / (alpha + beta), shares[:, 1]), _exponent(alpha / (alpha + beta), shares[:, 0])
    low, high = EXPONENTS
    problem = ""
    if not low * 1.01 < min(alpha, beta) or not max(alpha, beta) < high / 1.01:
        problem = f"alpha {alpha:.2f} or beta {beta:.2f} is at the end of the searched range: the runs do not tell them"
    elif min(np.ptp(of_size), np.ptp(of_data)) < LEAST_PART * np.ptp(curve.loss):
        problem = f"the loss does not fall with {'the size' if np.ptp(of_size) < np.ptp(of_data) else 'the data'} in these runs"
    return SurfaceFit(
        float(floor),
        float(size * np.exp(alpha * middles[0])),
        float(alpha),
        float(data * np.exp(beta * middles[1])),
        float(beta),
        float(np.sqrt(error / count)),
        a,
        b,
        problem,
    )


def _search(
    x: np.ndarray, y: np.ndarray, loss: np.ndarray, log_alpha: np.ndarray, log_beta: np.ndarray, spacing: float, finest: float = 1e-4
) -> tuple[tuple[float, float], np.ndarray, float]:
    """Find the best (alpha, beta), its (E, A, B) in centered logarithms, and its squared error.

    From the best of the given exponents on, windows of 7 x 7 around the best so far, narrower as long as it lies inside.
    """
    low, high = np.log(EXPONENTS)
    best: tuple[float, np.ndarray, np.ndarray] = (np.inf, np.zeros(2), np.zeros(3))
    window = np.linspace(-1, 1, 7)
    for _ in range(60):
        grid = np.stack(np.broadcast_arrays(log_alpha, log_beta), -1).reshape(-1, 2).clip(low, high)  # (g, 2)
        coefficients, errors = _project(np.exp(grid), x, y, loss)
        k = int(errors.argmin())
        moved = np.abs(grid[k] - best[1]).max() if np.isfinite(best[0]) else 0.0
        if errors[k] < best[0]:
            best = float(errors[k]), grid[k], coefficients[k]
        if spacing < finest:
            break
        if moved < 2.9 * spacing:  # it lies inside the window of three spacings to each side
            spacing /= 2.5
        log_alpha, log_beta = (best[1][j] + 3 * spacing * (window[:, None] if j == 0 else window[None, :]) for j in (0, 1))
    alpha, beta = np.exp(best[1]).tolist()
    return (alpha, beta), best[2], best[0]


def _project(exponents: np.ndarray, x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the best E, A, B >= 0 for each pair of exponents (g, 2): (g, 3), and squared errors (g,)."""
    columns = [np.ones((len(exponents), len(x))), np.exp(-exponents[:, :1] * x), np.exp(-exponents[:, 1:] * y)]
    answers, residuals = zip(*(nnls(design, loss) for design in np.stack(columns, -1)), strict=True)
    return np.array(answers), np.square(residuals)


def difference(first: Exponent | None, second: Exponent | None) -> Exponent | None:
    """Subtract the second from the first, replicate by replicate."""
    if first is None or second is None:
        return None
    return _exponent(first.value - second.value, first.replicates - second.replicates)


def student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    return float(stdtrit(freedom, 0.975))


def verdict(low: float | None, high: float | None) -> str:
    """Judge the claim "this is above 0" by a 95 % interval, in words."""
    if low is None or high is None or low <= 0 <= high:
        return "inconclusive"
    return "holds" if low > 0 else "does not hold"
