"""One lesson as in Colab, by make compat: ``python tests/colab.py 05 --output-dir RUNS``.

A kernel that lets cells ask for input, a module ``google.colab``, and the notebook from its first cell on.
Its setup cell installs lmlab with the real pip, from this clone in place of GitHub's address. It may replace
nothing that the kernel has imported already, and nothing outside constraints/colab-upgrades.txt.
"""

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PROJECT = Path(__file__).resolve().parents[1]
ADDRESS = "git+https://github.com/lmlab-course/lmlab"
COLAB = """
import sys, types
from importlib.machinery import ModuleSpec
import google  # protobuf has this namespace, too
google.colab = sys.modules["google.colab"] = types.ModuleType("google.colab")
google.colab.__spec__ = ModuleSpec("google.colab", None)  # libraries look for it to know where they are
# as a kernel may have when the first cell runs; pandas would import pyarrow
import numpy, matplotlib.pyplot, ipywidgets
"""
# what the kernel has imported by then; in the kernel itself, before the setup cell installs anything
IMPORTED = """
import json as _json, sys as _sys
from importlib import metadata as _metadata
_of = _metadata.packages_distributions()
print(_json.dumps(sorted({d for m in list(_sys.modules) if "." not in m for d in _of.get(m, [])})))
"""


class ColabClient(NotebookClient):
    """A client that answers no question but lets the kernel know that it might, as Jupyter and Colab do."""

    async def async_start_new_kernel_client(self):
        client = await super().async_start_new_kernel_client()
        client.allow_stdin = True
        return client


def installed() -> dict[str, str]:
    return {found.name.lower().replace("_", "-"): found.version for found in metadata.distributions()}


def allowed_upgrades() -> set[str]:
    lines = (PROJECT / "constraints/colab-upgrades.txt").read_text(encoding="utf-8").splitlines()
    return {line.split()[0] for line in lines if line.strip() and not line.startswith("#")}


def output_of(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lesson")
    parser.add_argument("--output-dir", type=Path, required=True)
    args = parser.parse_args()
    (path,) = PROJECT.glob(f"notebooks/{args.lesson}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    setup = code[0]
    assert ADDRESS in setup.source, f"{path.name}: its first cell installs nothing from {ADDRESS}"
    setup.source = COLAB + IMPORTED + setup.source.replace(ADDRESS, f"git+file://{PROJECT}")
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += f"\noutput_dir = {str(args.output_dir.resolve())!r}\n"

    before = installed()
    client = ColabClient(notebook, timeout=None, kernel_name="python3", allow_errors=False)
    try:
        client.execute(cwd=str(args.output_dir.parent))
    finally:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, args.output_dir / path.name)
    after = installed()
    imported = set(json.loads(output_of(setup).splitlines()[0]))
    changed = {name for name in before if after.get(name) != before[name]}
    print(
        "changed:",
        ", ".join(f"{name} {before[name]} -> {after.get(name)}" for name in sorted(changed)) or "nothing",
    )
    wrong = changed - allowed_upgrades()
    under_the_kernel = changed & {name.lower().replace("_", "-") for name in imported}
    if wrong:
        print("not in constraints/colab-upgrades.txt:", ", ".join(sorted(wrong)))
    if under_the_kernel:
        print("replaced under a kernel that had imported it:", ", ".join(sorted(under_the_kernel)))
    return 1 if wrong or under_the_kernel else 0


if __name__ == "__main__":
    sys.exit(main())
