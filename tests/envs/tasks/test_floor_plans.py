"""Floor plans: connected, furnished without blocking, and a way that touches nothing."""

import numpy as np
import pytest

from worldmodel.envs.tasks.rooms import plans as floor_plans
from worldmodel.envs.tasks.rooms.paths import ground_of
from worldmodel.envs.tasks.rooms.plans import HALF, MAX_DOOR, MAX_PIECES, WALL, plan_of
from worldmodel.envs.tasks.rooms.views import Eye, look

LAYOUTS = range(0, 1200, 20)
EYE = Eye(0.65, -0.1, 1.48)


def test_a_number_decides_the_plan() -> None:
    plan_of.cache_clear()
    first = plan_of(7, MAX_PIECES, 1.1, 6)
    plan_of.cache_clear()
    again, other = plan_of(7, MAX_PIECES, 1.1, 6), plan_of(8, MAX_PIECES, 1.1, 6)
    assert first is not again and first.pieces == again.pieces and np.array_equal(first.walls, again.walls)
    assert first.pieces != other.pieces and first.walls.tolist() != other.walls.tolist()


def test_rooms_tile_the_floor_and_furniture_does_not_depend_on_the_doors() -> None:
    for layout in LAYOUTS:
        plan = plan_of(layout, MAX_PIECES, 0.95, 6)
        rooms = plan.rooms
        assert 3 <= len(rooms) <= 6 and len(set(plan.colors)) == len(rooms)
        assert np.prod([rooms[:, 1] - rooms[:, 0], rooms[:, 3] - rooms[:, 2]], axis=0).sum() == pytest.approx((2 * HALF) ** 2)
        wide, few = plan_of(layout, MAX_PIECES, MAX_DOOR, 6), plan_of(layout, 4, 0.95, 6)
        assert wide.pieces == plan.pieces and few.pieces == plan.pieces[:4]
        assert len({(piece.kind, piece.color) for piece in plan.pieces}) == len(plan.pieces)
        assert all(plan.colors[piece.room] != piece.color for piece in plan.pieces)


def test_every_room_is_reached_by_the_widest_body() -> None:
    for layout in LAYOUTS:
        plan = plan_of(layout, MAX_PIECES, 0.95, 6)
        ground = ground_of(plan, 0.29)
        reached = {plan.room_of(x, y) for x, y in _centers(ground.cells[::7])}
        assert reached == set(range(len(plan.rooms)))
        assert min(plan.clearances(x, y).min() for x, y in _centers(ground.cells[::31])) > 0.2


def _centers(cells: np.ndarray) -> np.ndarray:
    rows, columns = np.divmod(cells, 80)
    return np.stack([columns + 0.5, rows + 0.5], axis=1) * 0.1 - HALF


def test_the_way_keeps_clear_and_ends_at_the_goal() -> None:
    rng = np.random.default_rng(0)
    for layout in LAYOUTS[:20]:
        plan = plan_of(layout, MAX_PIECES, 1.1, 6)
        ground = ground_of(plan, 0.25)
        start, goal = _centers(rng.choice(ground.cells, 2))
        corners = ground.path(start, goal)
        assert np.array_equal(corners[-1], goal)
        for a, b in zip([start, *corners], corners, strict=False):
            assert all(plan.clearances(*(a + t * (b - a))).min() > 0.15 for t in np.linspace(0, 1, 20))


def test_a_look_tells_sides_and_distances() -> None:
    plan = next(plan for plan in (plan_of(i, MAX_PIECES, 1.1, 6) for i in range(100)) if plan.pieces[0].kind == "sofa")
    x0, x1, y0, y1 = plan.pieces[0].rect
    front = plan.pieces[0].front * np.pi / 2
    forward = np.array([np.cos(front), np.sin(front)])
    reach = abs(np.array([x1 - x0, y1 - y0]) @ forward) / 2 + 0.5
    x, y = np.array([x0 + x1, y0 + y1]) / 2 + reach * forward
    back = float(front + np.pi)
    straight, turned_left, away = (look(plan, float(x), float(y), back + turn, EYE) for turn in (0.0, 0.5, np.pi))
    assert straight.ahead == ("piece", 0)
    seen = next(each for each in straight.pieces if each.index == 0)
    assert abs(seen.bearing) < 0.05 and seen.distance == pytest.approx(0.5, abs=0.03)
    assert next(each for each in turned_left.pieces if each.index == 0).bearing < -0.1
    assert 0 not in {each.index for each in away.pieces}


def test_every_layout_has_doors_that_join_all_rooms() -> None:
    for layout in (*range(300), 2671, 3504):  # 239, 2671 and 3504 hold a wall that a door just fits
        plan = plan_of(layout, MAX_PIECES, 1.1, 6)
        reached = {0}
        for _ in plan.rooms:
            reached |= {room for pair in plan.door_rooms if reached & set(pair) for room in pair}
        assert reached == set(range(len(plan.rooms))), layout
        for (i, j), door in zip(plan.door_rooms, _widest_doors(layout), strict=True):
            a, b = plan.rooms[i], plan.rooms[j]
            axis = 0 if door[1] - door[0] > door[3] - door[2] else 2
            low, high = max(a[axis], b[axis]), min(a[axis + 1], b[axis + 1])
            assert low + 2 * WALL - 1e-9 <= door[axis] and door[axis + 1] <= high - 2 * WALL + 1e-9, layout


def _widest_doors(layout: int) -> np.ndarray:
    return plan_of(layout, MAX_PIECES, MAX_DOOR, 6).doors


def test_rooms_that_no_door_can_join_are_cut_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = [
        [(-4.0, 4.0, -4.0, 0.0), (-4.0, -2.5, 0.0, 1.5), (-4.0, -2.5, 1.5, 4.0), (-2.5, 4.0, 0.0, 4.0)],
        [(-4.0, 0.0, -4.0, 4.0), (0.0, 4.0, -4.0, 4.0)],
    ]
    monkeypatch.setattr(floor_plans, "_split", lambda rng, count: cuts.pop(0))
    plan = floor_plans.plan_of.__wrapped__(0, 4, 1.1, 6)
    assert cuts == [] and len(plan.rooms) == 2 and plan.door_rooms == ((0, 1),)
