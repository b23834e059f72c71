"""Runs benchmarks one after the other and keeps their figures: python benchmarks [NAME ...] [--gpu].

Each runs in a process of its own. Results go to benchmarks/results/<name>.json, and into one picture
beside them.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
# name -> (unit, the figure of each contestant)
BENCHMARKS = {
    "training": ("tokens per second", "tokens_per_second"),
    "hellaswag": ("items per second", "items_per_second"),
    "tokenization": ("tokens per second", "tokens_per_second"),
    "loader_memory": ("MB of resident memory", "resident_mb"),
}


def measure(name: str, arguments: dict, stored: Path) -> None:
    """Runs one benchmark and writes what it returns, with its arguments, to a file."""
    code = (
        f"import json, {name}; measured = {name}.run(**{arguments!r}); "
        f"print({name}.table(measured)); "
        f"open({str(stored)!r}, 'w').write(json.dumps({{'arguments': {arguments!r}, **measured}}, indent=1))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True)


def plot(found: dict[str, dict], path: Path) -> None:
    """One panel for each benchmark, one bar for each contestant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(len(found), 1, figsize=(8, 0.6 + 1.7 * len(found)), squeeze=False)
    for ax, (name, measured) in zip(panels[:, 0], found.items(), strict=True):
        unit, figure_of = BENCHMARKS[name.removesuffix("_gpu")]
        values = {contestant: row[figure_of] for contestant, row in measured["results"].items()}
        colours = ["#0072B2" if contestant.startswith("lmlab") else "#BBBBBB" for contestant in values]
        bars = ax.barh(list(values), list(values.values()), color=colours, edgecolor="black", linewidth=0.5)
        ax.bar_label(bars, fmt="{:,.1f}" if max(values.values()) < 100 else "{:,.0f}", padding=3)
        ax.set_xlabel(unit)
        ax.set_title(
            f"{name}: {measured['conditions']['device']}, threads: {measured['conditions']['threads']}",
            fontsize=10,
            loc="left",
        )
        ax.set_xlim(0, 1.2 * max(values.values()))
        ax.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument(
        "--gpu", action="store_true", help="training alone: GPT-2 small in bfloat16 at length 1,024"
    )
    args = parser.parse_args()
    for name in args.names:
        if name not in BENCHMARKS:
            parser.error(f"got {name!r}, expected one of {', '.join(BENCHMARKS)}")
    RESULTS.mkdir(exist_ok=True)
    names = ["training"] if args.gpu else args.names or list(BENCHMARKS)
    for name in names:
        print(f"--- {name}", flush=True)
        measure(name, {"gpu": True} if args.gpu else {}, RESULTS / f"{name}{'_gpu' if args.gpu else ''}.json")
    found = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    plot(found, RESULTS / "benchmarks.png")
    print(RESULTS / "benchmarks.png")


if __name__ == "__main__":
    main()
