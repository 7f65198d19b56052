"""Execute notebooks and write them with their outputs: `python -m notebooks.run [NAME ...]`.

A notebook is a pair: `NAME.py`, its text (jupytext, percent format), and `NAME.ipynb`, the same
cells with the outputs of the last run. This script reads the text, executes it in a fresh kernel
and writes the other file.
"""

import argparse
import ast
import base64
import io
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent
NAMES = tuple(path.stem for path in sorted(FOLDER.glob("[0-9][0-9]_*.py")))

# what differs between machines or changes with every run, and says nothing
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def read(name: str) -> NotebookNode:
    """Read the text of a notebook; its cells are named by their places."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    return notebook


def text(notebook: NotebookNode) -> str:
    """Give the text file of a notebook, as jupytext writes it."""
    return jupytext.writes(notebook, fmt="py:percent")


def sizes(notebook: NotebookNode) -> NotebookNode:
    """Find the cell that is tagged `parameters`: the sizes of the notebook.

    Raises:
      ValueError: unless there is exactly one.
    """
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"a notebook has one cell tagged `parameters`, this one {len(cells)}")
    return cells[0]


def names_in(code: str) -> set[str]:
    """Give the names that the assignments of a cell set."""
    found = [node for node in ast.parse(code).body if isinstance(node, ast.Assign)]
    return {target.id for node in found for target in node.targets if isinstance(target, ast.Name)}


def resize(notebook: NotebookNode, code: str) -> None:
    """Replace the cell of sizes.

    Args:
      notebook: is changed.
      code: assignments to the names of that cell, no more and no fewer.

    Raises:
      ValueError: where the names are others.
    """
    cell = sizes(notebook)
    if names_in(code) != names_in(cell.source):
        raise ValueError(
            f"`code` sets {sorted(names_in(code))}, and the cell of sizes "
            f"{sorted(names_in(cell.source))}: set the same names"
        )
    cell.source = code


def execute(notebook: NotebookNode, *, folder: str | os.PathLike[str], timeout: int = 600) -> float:
    """Execute a notebook in a fresh kernel, and leave nothing of the machine in it.

    Args:
      notebook: is changed: it has outputs afterwards.
      folder: where the kernel runs, and writes what the notebook writes.
      timeout: seconds that one cell may take.

    Returns:
      Seconds, the start of the kernel included.

    Raises:
      nbclient.exceptions.CellExecutionError: where a cell fails.
    """
    notebook.metadata["kernelspec"] = KERNEL
    began = time.monotonic()
    resources = {"metadata": {"path": str(folder)}}
    options = {"timeout": timeout, "kernel_name": "python3", "resources": resources}
    NotebookClient(notebook, coalesce_streams=True, **options).execute()
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                output["data"]["image/png"] = smaller(png)
    return time.monotonic() - began


def keep_outputs(notebook: NotebookNode, before: NotebookNode) -> None:
    """Take the outputs of a notebook whose code is the same and whose text was changed.

    Args:
      notebook: is changed: it has outputs afterwards.
      before: the same cells of code, executed.

    Raises:
      ValueError: where a cell of code differs.
    """
    new, old = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, before))
    if [cell.source for cell in new] != [cell.source for cell in old]:
        raise ValueError("cells of code were changed: execute the notebook, without `--text`")
    for cell, executed in zip(new, old, strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    notebook.metadata["kernelspec"] = KERNEL


def smaller(png: str) -> str:
    """Give a picture (base64) at most 256 colors, enough for lines, which halves its size."""
    whole = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    few = whole.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(arguments: Sequence[str] | None = None) -> None:
    """Execute the notebooks that the command line names, or all, and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all if none")
    parser.add_argument(
        "--text", action="store_true", help="only the text was changed: keep outputs, run nothing"
    )
    given = parser.parse_args(arguments)
    names = given.names or NAMES
    for name in names:
        if name not in NAMES:
            parser.error(f"there is no notebook {name!r}: {', '.join(NAMES)}")
    # the kernel finds the package in this checkout, wherever it runs
    parts = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(parts)
    for name in names:
        notebook, written = read(name), FOLDER / f"{name}.ipynb"
        if given.text:
            keep_outputs(notebook, nbformat.read(written, as_version=4))
            nbformat.write(notebook, written)
            continue
        with tempfile.TemporaryDirectory() as folder:
            seconds = execute(notebook, folder=folder)
        nbformat.write(notebook, written)
        print(f"{name}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
