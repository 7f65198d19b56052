"""Shell commands of pages: what they install is there, and what they run accepts their options.

Nothing is installed and nothing trained: commands end where their options are parsed.
"""

import argparse
import itertools
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import tyro

import jaxticket as jt
from jaxticket.cli import commands, main, reading

ROOT = Path(__file__).parents[2]
README = "README.md"
PAGES = (README, "CONTRIBUTING.md", "notebooks/README.md")
# programs with commands in these pages other than Python and pip, by what installs them
OTHERS = {"ruff": "ruff", "basedpyright": "basedpyright", "mkdocs": "mkdocs-material"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
# its options after those of the README say what is printed
IN_CI = re.compile(r"^python -m pytest (?P<given>.*?)(?: -q| --durations=\d+)*$", re.MULTILINE)


def blocks(page):
    """The commands of each block: a list of words for each command."""
    found = re.findall(r"^```bash\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.M | re.S)
    for block in found:
        lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", "").split("\n")]
        parts = [
            [*words]
            for line in lines
            for between, words in itertools.groupby(line, lambda word: word == "&&")
            if not between
        ]
        yield [part for part in parts if part]


def cases(*pages):
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page in pages
        for number, block in enumerate(blocks(page))
    ]


def extras_in(text):
    """Names in the brackets of `.[cli,data]`."""
    return [name for names in re.findall(r"\.\[([^]]*)\]", text) for name in names.split(",")]


def requirements(words):
    """What a command of pip installs."""
    assert words[0] == "install", words
    return [word for word in words[1:] if word not in ("-q", "-e")]


class Parsed(BaseException):
    """Raised in the place of what a command does once its options are parsed."""


@pytest.fixture
def parsing(monkeypatch):
    """Parsers raise `Parsed` after they have accepted the options."""

    def ends(owner, name):
        accept = getattr(owner, name)

        def parsed(*args, **options):
            with monkeypatch.context() as inner:
                # tyro may parse by argparse
                inner.setattr(argparse.ArgumentParser, "parse_args", parse_args)
                accept(*args, **options)
            raise Parsed

        monkeypatch.setattr(owner, name, parsed)

    parse_args = argparse.ArgumentParser.parse_args
    ends(argparse.ArgumentParser, "parse_args")
    ends(tyro, "cli")
    ends(commands, "parse")
    ends(reading, "parse")
    # scripts of experiments/ set the folder of the cache before they parse
    monkeypatch.setattr(jt, "compilation_cache", lambda *args, **options: None)
    return monkeypatch


def run_module(parsing, name, *args):
    """Run a module as `python -m` does, up to its options."""
    parsing.setattr(sys, "argv", [name, *args])
    # runpy warns of modules that were imported before
    parsing.delitem(sys.modules, name, raising=False)
    with pytest.raises(Parsed):
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def checked_pytest(args):
    """Options of the tests: CI runs the same command, or the marker is one that there is."""
    args = [word for word in args if word != "-q"]
    if args[0] == "-m":
        marks = PROJECT["tool"]["pytest"]["ini_options"]["markers"]
        assert args[1] in [mark.partition(":")[0] for mark in marks]
    else:
        (line,) = IN_CI.finditer((ROOT / ".ci" / "run").read_text("utf-8"))
        assert line["given"] == " ".join(args)


@pytest.mark.parametrize("block", cases(*PAGES))
def test_the_commands_of_a_block_are_accepted(block, parsing):
    for program, *args in block:
        program = program.removeprefix(".venv/bin/")
        if program == "pip":
            for name in requirements(args):
                assert not name.startswith(".") or set(extras_in(name)) <= set(EXTRAS), name
        elif program in ("python", "python3"):
            flag, module, *options = args
            assert flag == "-m"
            if module == "pytest":
                checked_pytest(options)
            else:
                run_module(parsing, module, *options)
        elif program == "bash":
            assert (ROOT / args[0]).is_file()
        elif program == "jupyter":
            assert args[0] == "lab" and (ROOT / args[1]).is_dir()
            installed = [name for first, *rest in block if first == "pip" for name in rest]
            assert "jupyterlab" in installed
        else:
            needed = [name for extra in ("dev", "docs") for name in EXTRAS[extra]]
            assert any(name.startswith(OTHERS[program]) for name in needed)


@pytest.mark.parametrize("block", cases(README))
def test_a_block_of_the_readme_starts_from_nothing(block):
    """Its first command makes the environment that the others are run in, with what they need."""
    make, install, *rest = block
    assert make == ["python3", "-m", "venv", ".venv"]
    assert install[0] == ".venv/bin/pip" and rest
    (installed,) = (extras_in(name) for name in requirements(install[1:]))
    for program, *args in rest:
        assert program == ".venv/bin/python" and args[0] == "-m"
        # tyro parses the options of scripts
        assert args[1] == "pytest" or "cli" in installed
    assert any(name.startswith("tyro") for name in EXTRAS["cli"])


def test_ci_installs_and_tests_as_the_readme_says():
    (tests,) = [block for block in blocks(README) if block[-1][2] == "pytest"]
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    (extra,) = extras_in(tests[1][-1])
    assert f'-e ".[${{EXTRAS:-{extra}}}]"' in ci and "-e" in tests[1]
    assert " ".join(["python", *tests[-1][1:]]) in ci


@pytest.mark.parametrize("page", [README, "docs/getting-started.md"])
def test_extras_that_a_page_names_are_there(page):
    text = (ROOT / page).read_text("utf-8")
    assert extras_in(text) and set(extras_in(text)) <= set(EXTRAS)


@pytest.mark.parametrize("page", [README, "docs/guides/command-line.md"])
def test_commands_of_jaxticket_in_a_page_are_accepted(page, parsing):
    found = re.findall(r"`(jaxticket [^`]+)`", (ROOT / page).read_text("utf-8"))
    # one word after `jaxticket` is the name of a command in a sentence
    found = [shlex.split(text)[1:] for text in found if "--help" not in text]
    found = [args for args in found if len(args) > 1]
    assert len(found) >= 2
    for args in found:
        with pytest.raises(Parsed):
            main(args)
