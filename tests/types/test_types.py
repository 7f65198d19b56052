"""Wrong arguments of public functions are found by a type checker, before anything runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
