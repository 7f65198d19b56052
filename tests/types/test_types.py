"""Wrong arguments of public functions are found by a type checker, before anything runs."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxticket as jt

HERE = Path(__file__).parent
CHECKER = shutil.which("basedpyright", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(CHECKER is None, reason="needs basedpyright")
def test_the_checker_reports_the_wrong_arguments_and_nothing_else(tmp_path):
    assert CHECKER is not None
    file = HERE / "wrong_arguments.py"
    settings = {
        "include": [str(file)],
        "extraPaths": [str(HERE.parent.parent)],
        "typeCheckingMode": "basic",
        "pythonVersion": "3.11",
    }
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    command = [CHECKER, "--project", str(project), "--outputjson", "--pythonpath", sys.executable]
    found = subprocess.run(command, capture_output=True, text=True)
    errors = json.loads(found.stdout)["generalDiagnostics"]
    # the type of an argument is wrong, not its name or the number of arguments
    assert {error["rule"] for error in errors} == {"reportArgumentType"}
    reported = {error["range"]["start"]["line"] + 1: error["message"] for error in errors}
    lines = file.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    missed = {number: lines[number - 1] for number in sorted(wrong - set(reported))}
    right = {number: reported[number] for number in sorted(set(reported) - wrong)}
    assert not missed
    assert not right
    assert len(wrong) >= 30


def signatures():
    """Name and signature of every function, class and method that the package exports."""
    for name in jt.__all__:
        exported = getattr(jt, name)
        if not callable(exported) or (
            isinstance(exported, type) and issubclass(exported, BaseException)
        ):
            continue
        yield name, inspect.signature(exported)
        for method, function in vars(exported).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                yield f"{name}.{method}", inspect.signature(function)


def test_public_signatures_say_what_they_take():
    vague = [
        f"{name}: {kind}"
        for name, signature in signatures()
        # until masks know their prunable leaves
        if name not in ("density", "keep_top")
        for kind in (
            *(str(p.annotation) for p in signature.parameters.values() if p.name != "self"),
            str(signature.return_annotation),
        )
        # a JSON object may hold anything
        if re.search(r"\bAny\b", kind.replace("dict[str, Any]", "Json"))
    ]
    assert not vague
