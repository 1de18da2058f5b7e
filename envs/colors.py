"""Colors of the scenes by the names that captions give them."""

Color = tuple[float, float, float]

OBJECT_COLORS: dict[str, Color] = {
    "red": (0.86, 0.20, 0.18),
    "green": (0.18, 0.62, 0.29),
    "blue": (0.16, 0.40, 0.85),
    "yellow": (0.96, 0.80, 0.14),
    "purple": (0.55, 0.25, 0.70),
    "orange": (0.97, 0.51, 0.12),
}
FLOOR_COLORS: dict[str, Color] = {
    "cream": (0.95, 0.93, 0.88),
    "white": (1.00, 1.00, 1.00),
    "mint": (0.80, 0.92, 0.85),
    "sky": (0.78, 0.88, 0.97),
    "rose": (0.97, 0.85, 0.86),
    "gray": (0.74, 0.75, 0.77),
}
WALL_COLORS: dict[str, Color] = {
    "slate": (0.25, 0.28, 0.36),
    "black": (0.08, 0.08, 0.09),
    "brown": (0.36, 0.24, 0.17),
    "teal": (0.06, 0.33, 0.36),
}
