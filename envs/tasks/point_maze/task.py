"""PointMaze: roll a ball, seen from above, through a maze that is new in every episode."""

from typing import Any

import mujoco
import numpy as np

from worldmodel.envs.action_text import PLANAR_AXES
from worldmodel.envs.colors import FLOOR_COLORS, OBJECT_COLORS, WALL_COLORS
from worldmodel.envs.demonstrators import move_towards
from worldmodel.envs.mujoco_task import MujocoTask
from worldmodel.envs.recording import Recording
from worldmodel.envs.scenery import (
    BOX,
    CYLINDER,
    SEEN,
    SPHERE,
    add_pattern,
    add_slides,
    add_top_camera,
    material_of,
    set_planar_physics,
)
from worldmodel.envs.task import MAX_GOAL_TRIES, Observation, Policy
from worldmodel.envs.tasks.point_maze.language import PointMazeLanguage
from worldmodel.envs.tasks.point_maze.mazes import (
    CELLS,
    Cell,
    Maze,
    cell_of,
    centre_of,
    make_maze,
    max_walls,
    next_step,
    path_lengths,
    wall_boxes,
)
from worldmodel.envs.variation import SENSOR_FACTORS, Factor, Value
from worldmodel.errors import UserError

CELL_HALF = 1.0 / CELLS
WALL_HALF = 0.035
WALL_HEIGHT = 0.1
"""Half the height of the walls, which stand on the floor at z = -0.1."""
MIN_PATH = 3
"""Cells from start to goal along the shortest path, at least."""
CONTACT_DEPTH = 0.02
"""How deep a contact may press the ball into a wall."""
STIFF = [0.01, 1.0]
"""Time constant and damping of contacts: the ball gives way by some millimeters only."""
VELOCITY_GAIN = 15.0
"""Force per velocity error: a ball of mass 1 follows the command within 1/15 s, a heavy one later."""
AMBIENT = 0.6
"""Share of the light that comes from everywhere; the rest comes from the lamp and shades the sides of walls."""
MAX_MARKS = 8
MARK_COLORS = ((0.93, 0.62, 0.62), (0.60, 0.80, 0.65), (0.60, 0.72, 0.93), (0.93, 0.86, 0.58))
PATTERNS = ("plain", "checker", "stripes")


class PointMaze(MujocoTask):
    """A ball in a maze of 5 x 5 cells, pushed by velocity commands.

    ## Description
    The arena is [-1, 1] x [-1, 1], its cells are 0.4 wide. The factor `maze.layout` numbers the mazes and is
    drawn anew in every episode; `maze.openness` takes walls away, so that there are loops. The ball pushes
    against walls and slides along them, the slower the more friction they have. Start and goal lie in cells
    at least three steps apart on the shortest path, anywhere in them where the ball touches no wall. After
    the mazes of D4RL (Fu et al. 2020, arXiv 2004.07219), here with walls that differ between episodes.

    ## Action Space
    `dx`, `dy` in [-1, 1]: wanted velocity; 1 moves the ball 0.15 in a step of 0.1 s (factor `ball.speed`).

    ## Observation Space
    `pixels`; `proprio` = x, y, and the velocities divided by the speed of a full action.

    ## Rewards
    The negative Euclidean distance of the ball to its goal position, through walls.

    ## Episode End
    Terminated within 0.15 of the goal, which no ball on the other side of a wall is; truncated after 100 steps.
    """

    action_axes = PLANAR_AXES
    language_class = PointMazeLanguage
    feature_names = ("ball.x", "ball.y")
    success_threshold = 0.15
    min_goal_distance = 0.4
    max_episode_steps = 100
    default_frame_skip = 20
    multisampling = 4  # positions below a pixel show
    recording = Recording()
    cameras = ("top", "tilted")
    factors = {
        "maze.layout": Factor("number of the maze", 0.0, low=0, high=99_999, integer=True, per_episode=True),
        "maze.openness": Factor("share of the inner walls that is taken away", 0.1, low=0.0, high=0.5),
        "ball.color": Factor("color of the ball", "red", tuple(OBJECT_COLORS)),
        "ball.radius": Factor("radius of the ball", 0.1, low=0.085, high=0.115),
        "ball.mass": Factor("mass of the ball; a heavy one gains speed slowly", 1.0, low=0.5, high=2.5),
        "ball.speed": Factor("speed of a full action, per second", 1.5, low=1.1, high=2.0),
        "wall.color": Factor("color of the walls", "slate", tuple(WALL_COLORS)),
        "wall.friction": Factor("friction between ball and walls", 0.1, low=0.0, high=0.5),
        "floor.color": Factor("color of the floor", "cream", tuple(FLOOR_COLORS)),
        "floor.pattern": Factor("pattern of the floor", "plain", PATTERNS),
        "marks.count": Factor("number of pale marks painted on the floor", 0.0, low=0, high=MAX_MARKS, integer=True),
        "light.brightness": Factor("brightness of the light", 1.0, low=0.7, high=1.0),
        "camera.extent": Factor("height of the picture in arena units", 2.15, low=2.1, high=2.5),
        **SENSOR_FACTORS,
    }

    def build(self, spec: mujoco.MjSpec) -> None:
        """Add the floor, rim, walls and marks in reserve, ball on two slides, a lamp, cameras above."""
        set_planar_physics(spec, 0.005)
        spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)  # its tree does not see walls move
        world = spec.worldbody
        # From top to bottom: the order of drawing, so that the rasteriser skips what is hidden.
        for name, x, y in (("left", -2, 0), ("right", 2, 0), ("top", 0, 2), ("bottom", 0, -2)):
            size = [3.0 if y else 1.0, 1.0, WALL_HEIGHT + 0.002]
            world.add_geom(name=f"rim_{name}", type=BOX, size=size, pos=[x, y, 0], solref=STIFF)
        for k in range(max_walls(CELLS)):
            world.add_geom(name=f"wall_{k}", type=BOX, size=[0.1, 0.1, WALL_HEIGHT], pos=[0.1, 0, 0], solref=STIFF)
        ball = world.add_body(name="ball")
        add_slides(spec, ball, VELOCITY_GAIN)
        # Touched: a sphere. Seen: a flat cylinder with a spot of light, cheaper than a round ball.
        ball.add_geom(name="hull", type=SPHERE, size=[0.1, 0, 0], mass=1.0, group=3, solref=STIFF)
        ball.add_geom(name="shine", type=CYLINDER, size=[0.1, 0.01, 0], pos=[0.01, 0.01, 0.065], mass=0.0, **SEEN)
        ball.add_geom(name="ball", type=CYLINDER, size=[0.1, 0.08, 0], pos=[0, 0, -0.02], mass=0.0, **SEEN)
        for k in range(MAX_MARKS):
            shape, angle = (BOX, np.pi / 4) if k % 2 else (CYLINDER, 0.0)
            quat = [np.cos(angle / 2), 0, 0, np.sin(angle / 2)]
            world.add_geom(name=f"mark_{k}", type=shape, size=[0.06, 0.06, 0.002], pos=[0.1, 0, -0.1], quat=quat, **SEEN)
        (row, column), tile = np.indices((100, 100)), 100 // (2 * CELLS)
        for pattern, dark in (("checker", (row // tile + column // tile) % 2), ("stripes", (row + column) // tile % 2)):
            add_pattern(spec, pattern, np.where(dark, 226, 255))
        world.add_geom(name="floor", type=BOX, size=[1, 1, 0.01], pos=[0, 0, -0.11], **SEEN)
        spec.visual.headlight.ambient = [AMBIENT] * 3
        kind = int(mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
        world.add_light(name="lamp", type=kind, pos=[-1, 1.5, 3], dir=[0.3, -0.45, -0.84], castshadow=True, specular=[0, 0, 0])
        add_top_camera(spec, 2.15)
        world.add_camera(name="tilted", pos=[0, -1.75, 2.4], xyaxes=[1, 0, 0, 0, 0.82, 0.57], fovy=48)

    def apply_variation(self, values: dict[str, Value]) -> None:
        """Write maze, ball, colors, marks, light and camera into the model."""
        model = self.model
        self._apply_ball(values)
        wall = WALL_COLORS[str(values["wall.color"])]
        for side in ("left", "right", "top", "bottom"):
            model.geom(f"rim_{side}").rgba[:3] = wall
        boxes = wall_boxes(self._maze_of(values), WALL_HALF)
        first = model.geom("wall_0").id
        pool = slice(first, first + max_walls(CELLS))
        used = slice(first, first + len(boxes))
        model.geom_rgba[pool] = (*wall, 0.0)
        model.geom_pos[pool, :2], model.geom_size[pool] = 0.1, (0.1, 0.1, WALL_HEIGHT)
        model.geom_contype[pool] = model.geom_conaffinity[pool] = 0
        model.geom_rgba[used, 3] = model.geom_contype[used] = model.geom_conaffinity[used] = 1
        model.geom_pos[used, :2], model.geom_size[used, :2] = boxes[:, :2], boxes[:, 2:]
        model.geom_size[used, 2] = WALL_HEIGHT - 0.002 * (boxes[:, 2] < boxes[:, 3])  # no two tops in one plane
        model.geom_rbound[pool] = np.linalg.norm(model.geom_size[pool], axis=1)
        model.geom_friction[:, 0] = float(values["wall.friction"])
        self._apply_floor(values)
        brightness = float(values["light.brightness"])
        model.vis.headlight.ambient[:] = AMBIENT * brightness
        lamp = model.light("lamp")
        lamp.diffuse[:] = (1.0 - AMBIENT) * brightness / abs(float(lamp.dir[2]))  # what lies flat gets all of it
        model.camera("top").fovy[:] = float(values["camera.extent"])
        mujoco.mj_setConst(model, self._scratch)

    def _apply_ball(self, values: dict[str, Value]) -> None:
        model, radius = self.model, float(values["ball.radius"])
        color = np.array(OBJECT_COLORS[str(values["ball.color"])])
        model.geom("ball").rgba[:3], model.geom("shine").rgba[:3] = color, 0.45 + 0.55 * color
        for name, size in (("hull", radius), ("ball", radius), ("shine", 0.28 * radius)):
            model.geom(name).size[0] = size
            model.geom(name).rbound[:] = size + 0.1
        model.geom("shine").pos[:2] = -0.35 * radius, 0.35 * radius
        model.actuator_gainprm[:, 0] = VELOCITY_GAIN * float(values["ball.speed"])
        model.body("ball").mass[:] = float(values["ball.mass"])

    def _apply_floor(self, values: dict[str, Value]) -> None:
        """Set the floor's color and pattern, and marks of several sizes, laid out by the number of the maze."""
        model = self.model
        model.geom("floor").rgba[:3] = FLOOR_COLORS[str(values["floor.color"])]
        model.geom("floor").matid[:] = material_of(model, str(values["floor.pattern"]))
        rng = np.random.default_rng(int(values["maze.layout"]))
        spots, colors = rng.permutation(CELLS * CELLS), rng.permutation(MAX_MARKS)
        for k in range(MAX_MARKS):
            mark, shade = model.geom(f"mark_{k}"), MARK_COLORS[colors[k] % len(MARK_COLORS)]
            mark.rgba[:] = (*shade, float(k < int(values["marks.count"])))
            mark.size[0] = rng.uniform(0.05, 0.08)
            mark.size[1] = 0.002 if k % 2 == 0 else mark.size[0]
            middle = centre_of((int(spots[k]) // CELLS, int(spots[k]) % CELLS), CELLS)
            mark.pos[:2] = middle + rng.uniform(-0.06, 0.06, size=2)
            mark.rbound[:] = 0.2

    @staticmethod
    def _maze_of(values: dict[str, Value]) -> Maze:
        return make_maze(int(values["maze.layout"]), float(values["maze.openness"]), CELLS)

    @property
    def maze(self) -> Maze:
        """The maze of this episode."""
        return self._maze_of(self.variation)

    def _place_in(self, cell: Cell, rng: np.random.Generator) -> np.ndarray:
        """Sample a point (2,) in a cell that is clear of walls on all sides."""
        slack = CELL_HALF - WALL_HALF - self.number("ball.radius")
        return centre_of(cell, CELLS) + rng.uniform(-slack, slack, size=2)

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        """Sample any cell; in it, any point that is clear of walls on all sides."""
        return self._place_in((int(rng.integers(CELLS)), int(rng.integers(CELLS))), rng)

    def sample_goal(self, rng: np.random.Generator, start: np.ndarray) -> np.ndarray:
        """Sample a goal like a start, in one of the cells that are at least `MIN_PATH` steps away on the shortest path."""
        start = self.position_of(start)
        far = np.argwhere(path_lengths(self.maze, cell_of(start, CELLS)) >= MIN_PATH)
        for _ in range(MAX_GOAL_TRIES):
            column, row = far[int(rng.integers(len(far)))]
            goal = self._place_in((int(column), int(row)), rng)
            if self.distance_between(start, goal) >= self.min_goal_distance:
                return self.make_state(goal)
        raise UserError(f"found no goal at least {self.min_goal_distance} away from the start {start.tolist()}")

    def invalid_reason(self, position: np.ndarray) -> str | None:
        """Report a ball outside the arena or inside a wall."""
        x, y = position
        radius = self.number("ball.radius") - CONTACT_DEPTH
        if max(abs(x), abs(y)) > 1.0 - radius:
            return f"the ball would be outside the maze at x={x:.3f}, y={y:.3f}"
        boxes = wall_boxes(self.maze, WALL_HALF)
        gaps = np.maximum(np.abs(position - boxes[:, :2]) - boxes[:, 2:], 0.0)
        if (np.hypot(gaps[:, 0], gaps[:, 1]) < radius).any():
            return f"the ball would be inside a wall at x={x:.3f}, y={y:.3f}"
        return None

    def proprio_of(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Return position, and velocity in units of a full action."""
        return np.concatenate([position, velocity / self.number("ball.speed")])

    def features_of(self, position: np.ndarray) -> np.ndarray:
        """Return the position of the ball."""
        return position.copy()

    def distance_between(self, position: np.ndarray, goal: np.ndarray) -> float:
        """Compute the Euclidean distance, through walls."""
        return float(np.hypot(*(position - goal)))

    def demonstrator(self, rng: np.random.Generator) -> Policy:
        """Make a policy that takes the shortest path, at a speed and on a side of the cells of its own: some brush walls."""
        speed, side = float(rng.uniform(0.8, 1.0)), np.clip(rng.uniform(-1.5, 1.5, size=2), -1.0, 1.0)
        lengths: dict[Cell, np.ndarray] = {}  # goal cell -> path lengths to it

        def policy(obs: Observation, info: dict[str, Any]) -> np.ndarray:
            position, goal, values = self.position_of(info["state"]), self.position_of(info["goal_state"]), info["variation"]
            velocity = info["state"][1 + self.model.nq :][: self.model.nv]
            halt = position + velocity * values["ball.mass"] / VELOCITY_GAIN  # where it would come to rest without a push
            maze, goal_cell, cell = self._maze_of(values), cell_of(goal, CELLS), cell_of(position, CELLS)
            if goal_cell not in lengths:
                lengths[goal_cell] = path_lengths(maze, goal_cell)
            slack = CELL_HALF - WALL_HALF - values["ball.radius"]
            target = goal
            if cell != goal_cell:
                target = _next_target(position, halt, next_step(maze, lengths[goal_cell], cell), side, slack)
            return move_towards(halt, target, values["ball.speed"] * self.step_seconds, speed)

        return policy


def _next_target(position: np.ndarray, halt: np.ndarray, step: Cell, side: np.ndarray, slack: float) -> np.ndarray:
    """Choose the point (2,) to roll to.

    Args:
        position: The ball (2,).
        halt: Where it would come to rest (2,).
        step: The step to the next cell.
        side: On which side of the cells to roll, (2,) in [-1, 1]: at the bounds the ball touches the walls.
        slack: A ball further than this from the middle line does not fit through to the next cell: it moves over first.
    """
    middle = centre_of(cell_of(position, CELLS), CELLS)
    along = 0 if step[0] else 1
    if abs(position - middle)[1 - along] > slack + CONTACT_DEPTH / 2:
        return middle + slack * side
    target = middle + (slack + 0.4 * CONTACT_DEPTH) * side
    target[along] = halt[along] + 1.25 * CELL_HALF * step[along]
    return target
