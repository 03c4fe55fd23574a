"""What the tests of drawings share: a graph to draw, and an SVG read back."""

import re
from xml.etree.ElementTree import Element, fromstring

import torch

from companion import Drawing, draw

SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg: str) -> list[tuple[str, list[str], str]]:
    """For each Node as drawn: its class, the lines in it, and the hover text."""
    found = []
    for group in fromstring(svg).iter(f"{SVG}g"):
        kind = group.get("class", "")
        if kind.startswith("node") and kind not in ("node none", "node pill"):
            lines = ["".join(text.itertext()) for text in group.iter(f"{SVG}text")]
            hover = group.findtext(f"{SVG}title", "")
            found.append((kind.removeprefix("node "), lines, hover))
    return found


def the_pass() -> Drawing:
    x = torch.ones(2, 3, requires_grad=True)
    w = torch.ones(3, 2, requires_grad=True)
    return draw((torch.mm(x, w) + 2.0).mean())


def pills(svg: str) -> list[str]:
    """The text in each pill, in the order of the drawing."""
    groups = [g for g in fromstring(svg).iter(f"{SVG}g") if g.get("class") == "node pill"]
    return [" ".join(" ".join(g.itertext()).split()) for g in groups]


# ---- what crosses what


def crossed(svg: str) -> list[str]:
    """The labels of edges and the lines in boxes that an arrow crosses."""
    arrows, texts = [torch.empty(0, 2)], []
    for group in fromstring(svg).iter(f"{SVG}g"):
        if group.get("class", "").startswith("edge"):
            arrows += [points for path in group.iter(f"{SVG}path") for points in curves(path)]
        texts += [text for text in group.findall(f"{SVG}text") if "".join(text.itertext()).strip()]
    x, y = torch.cat(arrows).unbind(1)
    found = []
    for text in texts:
        left, top, right, bottom = area_of(text)
        if ((left < x) & (x < right) & (top < y) & (y < bottom)).any():
            found.append("".join(text.itertext()))
    return found


def area_of(text: Element) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a line of text; half an em is less than most letters have."""
    words, size = "".join(text.itertext()), float(text.get("font-size", 0))
    x, y = float(text.get("x", 0)), float(text.get("y", 0))
    half = size * sum(0.28 if c in " []().,:" else 0.5 for c in words) / 2
    return x - half, y - 0.9 * size, x + half, y + 0.2 * size


def curves(path: Element) -> list[torch.Tensor]:
    """101 points of each Bézier curve of a path, in rows."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d", ""))]
    points = torch.tensor(numbers).reshape(-1, 2)
    t = torch.linspace(0, 1, 101)[:, None]
    weights = torch.cat([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], dim=1)
    return [weights @ points[i : i + 4] for i in range(0, len(points) - 3, 3)]


def boxes_run_through(svg: str) -> list[str]:
    """The first lines of the boxes that an arrow runs through."""
    arrows, shapes = [torch.empty(0, 2)], []
    for group in fromstring(svg).iter(f"{SVG}g"):
        kind = group.get("class", "")
        if kind.startswith("edge"):
            arrows += [points for path in group.iter(f"{SVG}path") for points in curves(path)]
        elif kind.startswith("node") and kind != "node none":
            outline = next(
                e for e in group if e.tag in (f"{SVG}path", f"{SVG}polygon", f"{SVG}text")
            )
            text = outline.get("d") or outline.get("points") or ""
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", text)]
            if numbers:  # the title of a frame has no outline
                words = group.find(f"{SVG}text")
                name = "" if words is None else "".join(words.itertext())
                shapes.append((name, corners_of(outline, torch.tensor(numbers).reshape(-1, 2))))
    points = torch.cat(arrows)
    return [name for name, corners in shapes if (depths(points, corners) > 3).any()]


def corners_of(outline: Element, points: torch.Tensor) -> torch.Tensor:
    """The corners of a drawn shape in order; of a box with round corners those of the box."""
    if outline.tag == f"{SVG}polygon":
        return points
    (left, top), (right, bottom) = points.amin(0).tolist(), points.amax(0).tolist()
    return torch.tensor([(left, top), (right, top), (right, bottom), (left, bottom)])


def depths(points: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
    """How far in a shape without dents each point is; negative outside of it."""
    sides = corners.roll(-1, 0) - corners
    sides, corners = sides[sides.norm(dim=1) > 0], corners[sides.norm(dim=1) > 0]
    from_corners = points[:, None] - corners
    turns = sides[:, 0] * from_corners[..., 1] - sides[:, 1] * from_corners[..., 0]
    distances = turns / sides.norm(dim=1)
    return torch.maximum(distances.amin(1), (-distances).amin(1))  # whichever way they go round
