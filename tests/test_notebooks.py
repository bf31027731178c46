"""The notebooks run from top to bottom, and they show what their text says; so do the outputs that they come with."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
TIMEOUT_S = 900  # per notebook, of which each needs one or two minutes on two cores
MOST_BYTES = 300_000

_MISSING = [name for name in ("ipykernel", "nbclient", "nbformat") if importlib.util.find_spec(name) is None]
needs_jupyter = pytest.mark.skipif(
    bool(_MISSING), reason=f"{', '.join(_MISSING)} not installed: pip install -e '.[notebooks]' to run the notebooks."
)

# In a process of its own: the warnings of Jupyter's libraries are not what is tested here.
EXECUTE = """
import sys
import nbclient, nbformat
source, result, folder, timeout = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
resources = {"metadata": {"path": folder}}
nbclient.NotebookClient(notebook, timeout=int(timeout), kernel_name="python3", resources=resources).execute()
nbformat.write(notebook, result)
"""

# What the outputs show, in this order.
FACTS = {
    "two_towers": [
        r"two devices +difference from NumPy: \S+ +all-gathers in the compiled program: 1\n",
        r"<AlexNet: 2 towers, 60,965,224 parameters, 1,000 classes, 224 x 224 pixels>\n",
        r"conv2 .* own +307,456 +223,948,800\n",
        r"conv3 .* both +885,120 +149,520,384\n",
        r"largest difference between one device and two: \S+\n",
        r"conv2 +changed +-\nconv3 +changed +changed\n",
        r"conv2 of tower 1 depends on conv1 of tower 0, tower 1: \[False, True\]\n",
        r"conv3 of tower 1 depends on conv1 of tower 0, tower 1: \[True, True\]\n",
        r"total +30,836 +246,688\n",
        r"batch +128: towers +31.6 MB per step, data parallelism 243.9 MB\n",
        r"fc7 +changed +-\nfc8 +changed +changed\n",
    ],
    "your_own_pictures": [
        r"train +750 images ",
        r"exit status: -9 ",
        r"resumed after step [12]\d\d\n",
        r"done: top-1 .* on 150 images ",
        r"equal to the last bit: True\n",
        r"top-1 (9\d|100)\.\d % of 150 pictures\n",
        r"'conv1': \(15, 15, 32\)",
    ],
}
SAME = re.compile(r"(?:difference from NumPy|between one device and two): (\S+)")
PICTURES = {"two_towers": 1, "your_own_pictures": 6}
# A path from the root, but not a fraction, a URL or a date.
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[\w.-]+/)+[\w.-]+|[A-Z]:\\\\")


def _clean(folder: Path) -> dict[str, str]:
    """An environment without what the tests or a user have set for Python, JAX, Jupyter and matplotlib."""
    ours = ("PYTHON", "JAX", "XLA", "JUPYTER", "IPYTHON", "JPY", "MPL", "ALEXNET", "XDG", "TMP", "TEMP", "COV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # Inline is Agg, with the pictures in the notebook: what a reader has.
    inline = "module://matplotlib_inline.backend_inline"
    (folder / "home").mkdir()
    return kept | {"HOME": str(folder / "home"), "TMPDIR": str(folder), "MPLBACKEND": inline}


def _outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    cells = notebook["cells"]
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def _text(output: dict[str, Any]) -> str:
    shown = output.get("text", output.get("data", {}).get("text/plain", ""))
    return "".join(shown)


def _check_outputs(name: str, notebook: dict[str, Any]) -> None:
    outputs = _outputs(notebook)
    assert [output for output in outputs if output["output_type"] == "error"] == []
    said = [_text(output) for output in outputs if output.get("name") == "stderr"]
    assert [text for text in said if not text.startswith("\r")] == []  # a bar shows where a machine is slow
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[name]
    text, at = "".join(map(_text, outputs)), 0
    for fact in FACTS[name]:
        found = re.compile(fact).search(text, at)
        assert found, f"{fact!r} is not in what follows:\n{text[at:]}"
        at = found.end()
    assert all(float(difference) < 1e-5 for difference in SAME.findall(text))
    assert ABSOLUTE.findall(text) == []


@needs_jupyter
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_what_it_says(path: Path, tmp_path: Path) -> None:
    result, work = tmp_path / path.name, tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-c", EXECUTE, str(path), str(result), str(work), str(TIMEOUT_S)]
    done = subprocess.run(command, cwd=work, env=_clean(tmp_path), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    _check_outputs(path.stem, json.loads(result.read_text()))
    assert os.listdir(work) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_imports_of_a_notebook_are_there(path: Path) -> None:
    """Of the project: what it imports by name, and which attributes of that it uses."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    ours: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and "alexnet_jax" in ast.unparse(node):
            exec(ast.unparse(node), ours)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
            assert hasattr(ours[node.value.id], node.attr), ast.unparse(node)
    assert len(ours) > 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_those_of_one_run_and_small(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    _check_outputs(path.stem, notebook)
    assert path.stat().st_size < MOST_BYTES
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    counts = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_each_notebook_has_facts() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(FACTS) == sorted(PICTURES)


def test_links_of_notebooks_lead_somewhere() -> None:
    links = re.compile(r"\]\(([^):#]+)\)")
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        targets = [target for cell in cells for target in links.findall("".join(cell["source"]))]
        assert targets
        assert [target for target in targets if not (path.parent / target).exists()] == []
