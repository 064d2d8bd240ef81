"""The figures in README.md and docs/: what the benchmarks wrote as JSON, put between marks in the text.

    make figures                        # takes all of them, on an idle machine, and writes them into the text
    python -m benchmarks.figures        # writes those that are in benchmarks/results into the text
    python -m benchmarks.figures --check

A mark is ``<!-- figures: NAME -->``, and ``<!-- end -->`` after the text that is replaced.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

from ghostzoo.bench.machine import describe_machine

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TEXTS = (
    ROOT / "README.md",
    ROOT / "docs" / "performance.md",
    *(ROOT / "docs" / "guides" / name for name in ("batch.md", "native.md", "quantize.md", "sizing.md")),
)
MARKED = re.compile(r"(<!-- figures: ([a-z0-9-]+) -->)(.*?)(<!-- end -->)", re.DOTALL)

SPEED_PICTURE = ROOT / "docs" / "images" / "speed.svg"

Figures = Mapping[str, Any]
_LEGIBLE = "#808080"  # on white and on black

out_option = click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures as JSON.")


def save(out: Path | None, figures: Figures, **more: Any) -> None:
    """Write a benchmark's figures with the command and the machine that made them; nothing where ``out`` is none."""
    if out is None:
        return
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    content = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        **more,
        "figures": figures,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    """Return what a benchmark wrote.

    Raises:
        FileNotFoundError: it has not been run.
    """
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def draw_speed(out: Path) -> None:
    """Draw the time of the network in ghostzoo and in its peers, as an SVG for light and dark pages.

    Raises:
        FileNotFoundError: ``graph.py`` has not been run.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from benchmarks.figure_texts import OURS, PEERS

    content = read("graph")
    row = content["figures"]["GhostNet_x1_0, batch 1"]
    times = {title: row[name]["median_ms"] for name, title in (OURS | PEERS).items() if name in row}
    names = sorted(times, key=times.__getitem__)
    colours = ["#0d9488" if name in OURS.values() else "#9ca3af" for name in names]
    with matplotlib.rc_context({"svg.hashsalt": "speed", "svg.fonttype": "path"}):
        drawing = Figure(figsize=(8, 0.3 * len(names) + 0.8), layout="constrained")
        axes = drawing.subplots()
        bars = axes.barh(names, [times[name] for name in names], color=colours)
        axes.bar_label(bars, fmt="%.1f ms", padding=4, fontsize=9, color=_LEGIBLE)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xticks([])
        axes.tick_params(colors=_LEGIBLE, length=0)
        axes.spines[:].set_visible(False)
        of = f"{content['machine']['processor']} ({', '.join(content['machine']['instructions'])}), {content['date']}"
        axes.set_title(f"GhostNet_x1_0, one image, one thread; {of}", fontsize=9, color=_LEGIBLE, loc="left")
        drawing.savefig(out, transparent=True, metadata={"Date": None})


def rendered(text: str) -> tuple[str, dict[str, str]]:
    """Return the text with its figures, and why those that are left as they are cannot be written."""
    from benchmarks.figure_texts import RENDERERS

    missing: dict[str, str] = {}

    def replacement(found: re.Match[str]) -> str:
        try:
            return f"{found[1]}{RENDERERS[found[2]]()}{found[4]}"
        except FileNotFoundError as error:
            missing[found[2]] = f"there is no benchmarks/results/{Path(error.filename).name}; 'make figures' writes it"
            return found[0]

    return MARKED.sub(replacement, text), missing


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; the status is 1 where a text has other figures.")
def main(check: bool) -> None:
    """Write the figures of benchmarks/results into the texts."""
    stale = []
    if not check and (RESULTS / "graph.json").exists():
        draw_speed(SPEED_PICTURE)
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        new, missing = rendered(text)
        for name, reason in missing.items():
            print(f"{path.relative_to(ROOT)}: {name}: {reason}", file=sys.stderr)
        if new != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, encoding="utf-8")
    if stale and check:
        raise SystemExit(f"Other figures than those of benchmarks/results: {', '.join(stale)}; run 'make figures'.")


if __name__ == "__main__":
    main()
