"""Draw labelled images by formula: no photograph, no download, no outside licence.

A class is a row of formula parameters; an image is that formula under a pose, colours and a background of its own.
Two families share one renderer, which evaluates a level function at every pixel (negative inside the figure):

* even classes, *contours*: concentric closed curves whose radius is a sum of two sinusoids of the angle, after the
  radial contours and VisualAtom of formula-driven supervised learning (Takashima et al. 2023, section 3);
* odd classes, *limbs*: a chain of tapered capsules, in every second of them mirrored about its axis.

Besides the class, a batch says what else is in the picture (colours, pose, coverage), for the auxiliary targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 64  # pixels a side
LIMBS = 5  # capsules in a chain
FACTS = 12  # see `Batch.facts`


@dataclass(frozen=True)
class Batch:
    """One drawn batch.

    Attributes:
        images: (B, 3, size, size) uint8.
        classes: (B,) int64.
        facts: (B, 12) float32, each about unit scale: figure RGB (3), second RGB (3), background RGB (3),
            horizontal and vertical centre, log scale.
        coverage: (B, size // 8, size // 8) float32 in 0..1, fraction of each 8x8 patch that the figure covers.
    """

    images: Tensor
    classes: Tensor
    facts: Tensor
    coverage: Tensor


def _uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(*shape, generator=generator) * (high - low) + low


def class_table(classes: int, seed: int = 0) -> dict[str, Tensor]:
    """Formula parameters of every class, each tensor with `classes` rows, on the CPU.

    The table is drawn once, so class 7 of 512 and class 7 of 1,024 are different formulas.

    >>> {name: tuple(rows.shape) for name, rows in class_table(10).items()}["joints"]
    (10, 6, 2)
    """
    g = torch.Generator().manual_seed(seed)
    # A chain of joints: each limb turns by a random angle, then the figure is centred and brought to unit size.
    turns = _uniform(g, classes, LIMBS, low=-2.0, high=2.0).cumsum(1) + _uniform(g, classes, 1, high=2 * math.pi)
    lengths = _uniform(g, classes, LIMBS, low=0.35, high=1.0)
    steps = torch.stack([turns.cos() * lengths, turns.sin() * lengths], -1)
    joints = torch.cat([torch.zeros(classes, 1, 2), steps.cumsum(1)], 1)
    low, high = joints.amin(1, keepdim=True), joints.amax(1, keepdim=True)
    joints = (joints - (low + high) / 2) / ((high - low).amax(-1, keepdim=True) / 1.7)
    mirrored = torch.arange(classes) % 4 == 1
    # A mirrored figure keeps one half of its chain on the right of the axis, so the halves meet there.
    joints[..., 0] = torch.where(mirrored[:, None], joints[..., 0] * 0.55 + 0.35, joints[..., 0])
    return {
        "limbs": torch.arange(classes) % 2 == 1,
        "mirrored": mirrored,
        "waves": torch.stack(
            [torch.randint(1, 5, (classes,), generator=g), torch.randint(2, 9, (classes,), generator=g)], -1
        ).float(),
        "amplitudes": torch.stack(
            [_uniform(g, classes, low=0.1, high=0.45), _uniform(g, classes, low=0.04, high=0.25)], -1
        ),
        "phases": _uniform(g, classes, 2, high=2 * math.pi),
        "aspect": _uniform(g, classes, low=-0.45, high=0.45),  # log of height over width
        "joints": joints,
        "widths": _uniform(g, classes, LIMBS + 1, low=0.05, high=0.32),
        # Concentric orbits within a contour; bands within limbs. Zero leaves a plain figure.
        "orbits": torch.randint(0, 4, (classes,), generator=g).float(),
        "stripes": torch.stack(
            [_uniform(g, classes, low=0.0, high=math.pi), _uniform(g, classes, low=2.0, high=9.0)], -1
        ),
        "striped": torch.rand(classes, generator=g) < 0.4,
    }


def _contours(x: Tensor, y: Tensor, waves: Tensor, amplitudes: Tensor, phases: Tensor) -> Tensor:
    """Level of sinusoidal contours at (B, n, n) coordinates: distance to the curve, as a fraction of its radius."""
    angle = torch.atan2(y, x)
    rho = (x * x + y * y + 1e-6).sqrt()
    radius = 1.0
    for i in range(2):
        radius = radius + amplitudes[:, i, None, None] * torch.sin(
            waves[:, i, None, None] * angle + phases[:, i, None, None]
        )
    return 0.8 * rho / radius.clamp_min(0.15) - 0.8


def _limbs(x: Tensor, y: Tensor, joints: Tensor, widths: Tensor, mirrored: Tensor) -> Tensor:
    """Distance from (B, n, n) coordinates to the nearest tapered capsule; negative inside one."""
    x = torch.where(mirrored[:, None, None], x.abs(), x)
    level = None
    for i in range(LIMBS):
        ax, ay = joints[:, i, 0, None, None], joints[:, i, 1, None, None]
        bx, by = joints[:, i + 1, 0, None, None] - ax, joints[:, i + 1, 1, None, None] - ay
        along = ((x - ax) * bx + (y - ay) * by) / (bx * bx + by * by + 1e-6)
        along = along.clamp(0, 1)
        dx, dy = x - ax - along * bx, y - ay - along * by
        wa, wb = widths[:, i, None, None], widths[:, i + 1, None, None]
        distance = (dx * dx + dy * dy + 1e-8).sqrt() - (wa + along * (wb - wa))
        level = distance if level is None else torch.minimum(level, distance)
    return level


def draw(
    table: dict[str, Tensor],
    classes: Tensor,
    seed: int,
    *,
    size: int = SIZE,
    device: str | torch.device = "cpu",
) -> Batch:
    """Draw one image for each class id in `classes` (B,), a pure function of its arguments.

    The random numbers are drawn on the CPU and the pixels on `device`, so devices agree up to rounding.

    >>> batch = draw(class_table(8), torch.tensor([0, 1, 5]), seed=3)
    >>> batch.images.shape, batch.images.dtype, batch.facts.shape, batch.coverage.shape
    (torch.Size([3, 3, 64, 64]), torch.uint8, torch.Size([3, 12]), torch.Size([3, 8, 8]))
    """
    count, g = len(classes), torch.Generator().manual_seed(seed)

    def u(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return _uniform(g, count, *shape, low=low, high=high)

    row = {name: values[classes] for name, values in table.items()}
    rotation = u(low=-0.4, high=0.4)
    centre = u(2, low=-0.28, high=0.28)
    log_scale = u(low=math.log(0.5), high=math.log(1.0))
    # Contours reach out further than limbs at unit scale.
    unit = torch.where(row["limbs"], 1.0, 0.78)
    colours = u(3, 3)  # figure, second, background
    # Half of the figures are pale or dark as a whole: real things are less saturated than uniform RGB.
    grey = colours.mean(-1, keepdim=True)
    colours = torch.where(u(1, 1) < 0.5, grey + 0.3 * (colours - grey), colours)
    # Keep a contrast between the figure and what is behind it, or the label could not be read.
    gap = colours[:, 0] - colours[:, 2]
    near = gap.abs().amax(-1) < 0.25
    colours[:, 2] = torch.where(near[:, None], (colours[:, 2] + 0.5) % 1.0, colours[:, 2])
    p = {
        "rotation": rotation,
        "shear": u(low=-0.2, high=0.2),
        "aspect": row["aspect"] + u(low=-0.12, high=0.12),
        "cx": centre[:, 0],
        "cy": centre[:, 1],
        "scale": log_scale.exp() * unit,
        "waves": row["waves"],
        "amplitudes": row["amplitudes"] * u(2, low=0.85, high=1.15),
        "phases": row["phases"] + u(2, low=-0.15, high=0.15),
        "joints": row["joints"] + u(LIMBS + 1, 2, low=-0.06, high=0.06),
        "widths": row["widths"] * u(1, low=0.6, high=1.4),
        "warp": u(2, 3, low=-1.0, high=1.0),
        "outline": torch.where(u() < 0.3, u(low=0.05, high=0.12), torch.full((count,), 9.0)),
        "orbits": row["orbits"],
        "stripes": row["stripes"],
        "striped": row["striped"].float() * u(low=0.5, high=1.0),
        "colours": colours,
        "slope": u(2, low=-0.25, high=0.25),  # background gradient
        "texture": u(2, 4),  # two plane waves: direction, frequency, phase, strength
        "edge": u(4),  # a soft half-plane: direction, offset, strength, softness
        "shade": u(2, low=-0.2, high=0.2),  # light falls across the figure
        "soft": u(low=0.015, high=0.07),  # blur of the outline, in half image widths
    }
    family, mirrored = row["limbs"], row["mirrored"]
    order = torch.argsort(family.to(torch.int8), stable=True)
    split = int((~family).sum())
    p = {name: values.to(device, torch.float32) for name, values in p.items()}

    def at(name: str, *index: int) -> Tensor:
        return p[name][(slice(None), *index)][:, None, None]

    line = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    gy, gx = line[None, :, None], line[None, None, :]
    # Image plane -> figure plane: shift, scale, turn, shear, aspect, then a gentle warp (elastic within-class change).
    dx, dy = gx - at("cx"), gy - at("cy")
    cos, sin = at("rotation").cos() / at("scale"), at("rotation").sin() / at("scale")
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    x = (x + at("shear") * y) * (at("aspect") / 2).exp()
    y = y * (-at("aspect") / 2).exp()
    x, y = (
        x + 0.07 * at("warp", 0, 0) * torch.sin(2.5 * y + 3.1 * at("warp", 0, 1)),
        y + 0.07 * at("warp", 1, 0) * torch.sin(2.5 * x + 3.1 * at("warp", 1, 1)),
    )
    order_d = order.to(device)
    level = torch.empty_like(x)
    first, second = order_d[:split], order_d[split:]
    if len(first):
        level[first] = _contours(x[first], y[first], *(p[k][first] for k in ("waves", "amplitudes", "phases")))
    if len(second):
        level[second] = _limbs(
            x[second], y[second], p["joints"][second], p["widths"][second], mirrored.to(device)[second]
        )
    # An outline keeps a band just inside the curve; a filled figure has a band wider than itself.
    soft = at("soft") / at("scale")
    inside = torch.sigmoid(-level / soft * 2)
    figure = inside * torch.sigmoid((level + at("outline") / at("scale")) / soft * 2)
    rings = 0.5 - 0.5 * torch.cos(level * at("orbits") * 2 * math.pi)
    bars = 0.5 + 0.5 * torch.sin(
        at("stripes", 1) * (x * at("stripes", 0).cos() + y * at("stripes", 0).sin()) + 2 * at("warp", 0, 2)
    )
    second_share = (rings * (1 - at("striped")) + bars * at("striped")).clamp(0, 1)
    # Background: gradient, two plane waves and a soft half-plane.
    behind = at("slope", 0) * gx + at("slope", 1) * gy
    for i in range(2):
        turn, rate = at("texture", i, 0) * math.pi, 3 + 22 * at("texture", i, 1) ** 2
        wave = torch.sin(rate * (gx * turn.cos() + gy * turn.sin()) + 2 * math.pi * at("texture", i, 2))
        behind = behind + 0.16 * at("texture", i, 3) ** 3 * wave
    turn = at("edge", 0) * 2 * math.pi
    plane = gx * turn.cos() + gy * turn.sin() - (at("edge", 1) - 0.5) * 1.6
    behind = behind + 0.4 * (at("edge", 2) ** 2) * (torch.sigmoid(plane / (0.02 + 0.2 * at("edge", 3))) - 0.5)
    light = at("shade", 0) * gx + at("shade", 1) * gy

    c = p["colours"]
    main, other, back = (c[:, i, :, None, None] for i in range(3))
    painted = main + (other - main) * second_share[:, None] + light[:, None]
    ground = back + behind[:, None]
    pixels = ground + (painted - ground) * figure[:, None]
    images = (pixels.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    facts = torch.cat([colours.flatten(1) * 3.4 - 1.7, centre * 6, (log_scale[:, None] + 0.35) * 5], 1)
    covered = torch.nn.functional.avg_pool2d(inside[:, None], 8)[:, 0]
    return Batch(images, classes.to(device), facts.to(device), covered)
