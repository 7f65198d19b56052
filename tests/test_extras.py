"""Optional dependencies: an error names the package and the extra that installs it."""

import ast
import tomllib
from pathlib import Path

import pytest

from jaxticket import _extras

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OPTIONAL = {"tensorflow_datasets": "data", "grain": "stream"}


def test_a_missing_package_is_an_error_with_the_command_that_installs_it():
    with pytest.raises(ImportError, match=r"'no_such_package'.*\n.*'jaxticket\[data\]'"):
        _extras.require("no_such_package", "data")


@pytest.mark.parametrize("package", OPTIONAL)
def test_optional_packages_are_asked_for_before_they_are_imported(package):
    assert any(package.replace("_", "-") in line for line in EXTRAS[OPTIONAL[package]])
    asked = f"_extras.require('{package}', '{OPTIONAL[package]}')"
    found = 0
    for path in (ROOT / "jaxticket").rglob("*.py"):
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and package in {a.name for a in node.names}:
                (around,) = [f for f in functions if node in f.body]
                before = [ast.unparse(line) for line in around.body[: around.body.index(node)]]
                assert asked in before, f"{path}:{node.lineno}"
                found += 1
    assert found
