"""How a disc pushes a T-shaped block: the block's outline, what a push does to it, and ways around it.

Everything is in the plane. A pose is (x, y, angle); the block's own frame has its origin at the block's center of
mass, and its stem points to -y. Lengths of the block are those of size 1 times its size.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from worldmodel.envs.angles import wrap

BOXES = np.array([[0.0, 0.7 / 6, 0.28, 0.08], [0.0, 0.7 / 6 - 0.28, 0.08, 0.20]])
"""Bar and stem in the block's frame at size 1: center x, center y, half width, half height."""
TURNING_RADIUS = 0.18
"""Floor friction against turning acts on this lever arm, at size 1."""
MARGIN = 0.02
"""Room that a way around the block leaves between disc and block."""

_TOP, _MIDDLE, _END = 0.7 / 6 + 0.08, 0.7 / 6 - 0.08, 0.7 / 6 - 0.48
OUTLINE = np.array(
    [
        [-0.28, _TOP],
        [-0.28, _MIDDLE],
        [-0.08, _MIDDLE],
        [-0.08, _END],
        [0.08, _END],
        [0.08, _MIDDLE],
        [0.28, _MIDDLE],
        [0.28, _TOP],
    ]
)
"""Corners at size 1, counterclockwise."""
CORNERS = OUTLINE[[0, 1, 3, 4, 6, 7]]
"""The corners that stick out, at size 1."""
_OUTWARDS = np.array([[-1, 1], [-1, -1], [-1, -1], [1, -1], [1, -1], [1, 1]])
_SPACING, _FROM_CORNER = 0.045, 0.05
"""Of contacts, from each other and from corners, where the disc would slip off; at size 1."""
_LENGTHS = np.arange(0.02, 0.61, 0.02)


def to_world(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Transform points (n, 2) of the block's frame to the arena's, for one pose (3,)."""
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    return points @ np.array([[cos, sin], [-sin, cos]]) + pose[:2]


def to_block(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Transform points (n, 2) of the arena to the block's frame."""
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    return (points - pose[:2]) @ np.array([[cos, -sin], [sin, cos]])


def gaps(points: np.ndarray, size: float) -> np.ndarray:
    """Compute the distance (n, 2) of points (n, 2) in the block's frame to its bar and to its stem; 0 inside."""
    outside = np.abs(points[:, None] - size * BOXES[:, :2]) - size * BOXES[:, 2:]
    return np.linalg.norm(np.maximum(outside, 0.0), axis=-1)


def contacts(size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 2) along the outline of a block, with the directions (n, 2) that point away from it."""
    points, normals = [], []
    for start, end in zip(OUTLINE, np.roll(OUTLINE, -1, axis=0), strict=True):
        along = (end - start) / np.linalg.norm(end - start)
        length = float(np.linalg.norm(end - start))
        count = max(2, round((length - 2 * _FROM_CORNER) / _SPACING) + 1)
        points += [start + along * place for place in np.linspace(_FROM_CORNER, length - _FROM_CORNER, count)]
        normals += [np.array([along[1], -along[0]])] * count
    return size * np.stack(points), np.stack(normals)


@dataclass(frozen=True)
class Pusher:
    """A disc of some radius and the block of some size that it pushes, in the arena [-1, 1]^2."""

    size: float
    radius: float

    @cached_property
    def contacts(self) -> tuple[np.ndarray, np.ndarray]:
        """Those points and normals of `contacts` that the disc can reach from outside."""
        points, normals = contacts(self.size)
        ahead = points + normals * (self.radius + 2 * MARGIN)
        free = gaps(ahead, self.size).min(axis=1) > self.radius + 1.5 * MARGIN
        return points[free], normals[free]

    def pushed(self, pose: np.ndarray, index: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Compute the poses (n, m, 3) after the disc has followed contacts `index` (n,) inward for `lengths` (m,).

        The floor's friction makes the block move along the force: this is exact for slow pushes.
        """
        points, normals = (each[index] for each in self.contacts)
        lever = points[:, 1] * normals[:, 0] - points[:, 0] * normals[:, 1]  # of the force -normal
        arm = (self.size * TURNING_RADIUS) ** 2
        shift = -normals / (1 + lever**2 / arm)[:, None]
        turn = (lever / (arm + lever**2))[:, None] * lengths
        half = turn / 2
        chord = lengths * np.sinc(half / np.pi)
        cos, sin = np.cos(pose[2] + half), np.sin(pose[2] + half)
        x = pose[0] + chord * (cos * shift[:, :1] - sin * shift[:, 1:])
        y = pose[1] + chord * (sin * shift[:, :1] + cos * shift[:, 1:])
        return np.stack([x, y, pose[2] + turn], axis=-1)

    def reach(self, poses: np.ndarray) -> np.ndarray:
        """Compute the largest |x| or |y| of the block's corners, (...), in poses (..., 3)."""
        cos, sin = np.cos(poses[..., 2, None]), np.sin(poses[..., 2, None])
        x, y = self.size * CORNERS.T
        across = np.abs(poses[..., 0, None] + cos * x - sin * y).max(axis=-1)
        return np.asarray(np.maximum(across, np.abs(poses[..., 1, None] + sin * x + cos * y).max(axis=-1)))

    def paths(self, pose: np.ndarray, start: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the shortest ways of the disc around the block.

        Args:
            pose: (3,) of the block.
            start: (2,) place of the disc, clear of the block.
            targets: (n, 2) places to go to.

        Returns:
            Lengths (n,), infinite where there is no way, and the first points to go to straight, (n, 2).
        """
        turns = to_world(pose, self.size * CORNERS + (self.radius + 2 * MARGIN) * _OUTWARDS)
        nodes = np.concatenate([start[None], turns[np.abs(turns).max(axis=1) < 1.0 - self.radius]])
        count = len(nodes)
        everywhere = np.concatenate([nodes, targets])
        steps = np.linalg.norm(nodes[:, None] - everywhere, axis=-1)
        body = to_block(pose, everywhere)
        pairs = np.stack([np.repeat(body[:count], len(body), axis=0), np.tile(body, (count, 1))], axis=1)
        steps = np.where(self.crosses(pairs).reshape(count, -1), np.inf, steps)
        length, first, done = steps[0].copy(), np.arange(len(everywhere)), np.zeros(len(everywhere), bool)
        done[0] = True
        for _ in range(count - 1):  # Dijkstra over the corners
            node = int(np.argmin(np.where(done[:count], np.inf, length[:count])))
            done[node] = True
            through = length[node] + steps[node]
            first = np.where(through < length, first[node], first)
            length = np.minimum(through, length)
        return length[count:], everywhere[first[count:]]

    def crosses(self, segments: np.ndarray) -> np.ndarray:
        """Test whether the disc on straight segments (n, 2 ends, 2) of the block's frame meets the block, bool (n,)."""
        start = segments[:, None, 0] - self.size * BOXES[:, :2]
        step = segments[:, None, 1] - segments[:, None, 0]
        half = self.size * BOXES[:, 2:] + self.radius + MARGIN
        step = np.where(np.abs(step) < 1e-9, 1e-9, step)
        ends = np.stack([(-half - start) / step, (half - start) / step])
        enter, leave = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
        return (np.maximum(enter, 0.0) < np.minimum(leave, 1.0)).any(axis=1)


def pose_error(poses: np.ndarray, goal: np.ndarray, tolerance: tuple[float, float]) -> np.ndarray:
    """Compute the root of the squared errors of place and angle in their tolerances, (...), of poses (..., 3)."""
    away = np.linalg.norm(poses[..., :2] - goal[:2], axis=-1) / tolerance[0]
    return np.hypot(away, wrap(poses[..., 2] - goal[2]) / tolerance[1])


class PushPlan:
    """Chooses where to push, one push after another, and steers the disc; made anew for every episode."""

    def __init__(self, pusher: Pusher, tolerance: tuple[float, float], rng: np.random.Generator) -> None:
        """Plan with a disc that knows the block's shape; `tolerance` of place and angle weighs them."""
        self._pusher, self._tolerance, self._rng = pusher, tolerance, rng
        self._contact: int | None = None
        self._patience = 0
        self._detour, self._aside = 0, np.zeros(3)
        self._trust = np.ones(len(pusher.contacts[0]))

    def target(self, pose: np.ndarray, disc: np.ndarray, goal: np.ndarray, step: float) -> np.ndarray:
        """Choose where the disc should be after the next step, (2,).

        Args:
            pose: (3,) of the block.
            disc: (2,) place of the disc.
            goal: (3,) wanted pose of the block.
            step: Distance that the disc covers in the step.
        """
        self._patience -= 1
        self._detour -= 1
        goal = self._aside if self._detour > 0 else goal
        if self._contact is not None and self._patience < 0:
            self._trust[self._contact] *= 0.5
        length = 0.0 if self._contact is None or self._patience < 0 else self._best_length(pose, goal, self._contact)
        if not length:
            self._contact = self._choose(pose, disc, goal)
            self._patience = 35
            if self._contact is None:  # nothing helps from here: push towards somewhere else for a while
                self._detour = 25
                self._aside = self._rng.uniform([-0.3, -0.3, -np.pi], [0.3, 0.3, np.pi])
                return self._away(pose, disc, step)
            length = self._best_length(pose, goal, self._contact)
        points, normals = self._pusher.contacts
        point, normal = points[self._contact], normals[self._contact]
        offset = to_block(pose, disc[None])[0] - point
        gap = offset @ normal - self._pusher.radius
        aside = abs(offset @ np.array([-normal[1], normal[0]]))
        if aside < 0.03 and gap < 3 * MARGIN:  # push: go where the contact will be
            ahead = min(length, step - max(gap, 0.0))
            after = self._pusher.pushed(pose, np.array([self._contact]), np.array([max(ahead, 0.0)]))[0, 0]
            return to_world(after, (point + normal * self._pusher.radius)[None])[0]
        if self._touches(pose, disc):
            return self._away(pose, disc, step)
        before = to_world(pose, (point + normal * (self._pusher.radius + 2 * MARGIN))[None])
        lengths, first = self._pusher.paths(pose, disc, before)
        if not np.isfinite(lengths[0]):
            self._contact = None
            return self._away(pose, disc, step)
        return first[0]

    def _best_length(self, pose: np.ndarray, goal: np.ndarray, contact: int) -> float:
        """Choose how far to push a contact; 0 when that does not help."""
        errors = pose_error(self._pusher.pushed(pose, np.array([contact]), _LENGTHS)[0], goal, self._tolerance)
        best = int(np.argmin(errors))
        return float(_LENGTHS[best]) if errors[best] < pose_error(pose, goal, self._tolerance) - 0.02 else 0.0

    def _choose(self, pose: np.ndarray, disc: np.ndarray, goal: np.ndarray) -> int | None:
        """Choose one of the contacts that bring the block closest to its goal in the time that they take."""
        points, normals = self._pusher.contacts
        poses = self._pusher.pushed(pose, np.arange(len(points)), _LENGTHS)
        errors = pose_error(poses, goal, self._tolerance)
        before = to_world(pose, points + normals * (self._pusher.radius + 2 * MARGIN))
        start = disc
        for _ in range(10):
            start = self._away(pose, start, MARGIN) if self._touches(pose, start) else start
        paths, _ = self._pusher.paths(pose, start, before)
        paths = np.where(np.abs(before).max(axis=1) < 1.0 - self._pusher.radius, paths, np.inf)
        rates = (pose_error(pose, goal, self._tolerance) - errors) / (paths[:, None] + _LENGTHS + 0.3)
        limit = max(1.0 - self._pusher.radius, float(self._pusher.reach(pose)) + 0.01)  # keep off the walls
        best = (
            np.where(self._pusher.reach(poses) < limit, rates, 0.0).max(axis=1)
            * self._trust
            * self._rng.uniform(0.9, 1.0, len(points))
        )
        return int(np.argmax(best)) if best.max() > 0 else None

    def _touches(self, pose: np.ndarray, disc: np.ndarray) -> bool:
        return bool(self._pusher.crosses(np.repeat(to_block(pose, disc[None])[None], 2, axis=1))[0])

    def _away(self, pose: np.ndarray, disc: np.ndarray, step: float) -> np.ndarray:
        """Step away from the parts of the block that are near."""
        size, body = self._pusher.size, to_block(pose, disc[None])[0]
        centers, halves = size * BOXES[:, :2], size * BOXES[:, 2:]
        apart = body - centers - np.clip(body - centers, -halves, halves)  # from the nearest points of bar and stem
        distances = np.linalg.norm(apart, axis=1)
        near = distances < max(self._pusher.radius + 2 * MARGIN, distances.min() + 1e-9)
        out = (apart[near] / np.maximum(distances[near, None], 1e-9)).sum(axis=0)
        return to_world(pose, (body + step * out / max(float(np.linalg.norm(out)), 1e-9))[None])[0]
