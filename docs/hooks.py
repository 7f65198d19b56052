"""What the site is given besides the pages of this folder.

The index says which pages there are, and in which order. Pages that belong to the top of the
repository (the changelog and others) become pages of the site, and other files of the repository
that pages link to, such as figures and scripts, are copied. What pages of the reference say for
those who read them as plain files is left out, since the site has the docstrings themselves.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
}
"""Pages at the top of the repository, and what they are called on the site."""
FILES = "files"
"""Where copies of other files lie on the site."""
_PLAIN = re.compile(r"^<!-- plain:begin -->\n.*?^<!-- plain:end -->\n\n", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the sections and their pages from the index."""
    config.nav = sections((Path(config.docs_dir) / "index.md").read_text(encoding="utf-8"))
    return config


def sections(index: str) -> list[str | dict[str, list[str]]]:
    r"""The pages that the index links to: those above its sections, then section by section.

    >>> sections("# Title\n[start](start.md)\n## Use\n- [a](b/a.md)\n- [log](../CHANGELOG.md)")
    ['index.md', 'start.md', {'Use': ['b/a.md', 'changelog.md']}]
    """
    found: list[str | dict[str, list[str]]] = ["index.md"]
    for section in re.split(r"^## ", index, flags=re.MULTILINE):
        title, _, text = section.partition("\n")
        links = [
            posixpath.normpath(posixpath.join("docs", link)) for _, link, _ in _LINK.findall(text)
        ]
        pages = list(dict.fromkeys(placed(link) for link in links if link.endswith(".md")))
        found += pages if title.startswith("# ") else [{title: pages}]
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the top of the repository, and the files that pages link to."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, name, page)))
    for path in sorted(Path(config.docs_dir).rglob("*.md")):
        source = path.relative_to(ROOT).as_posix()
        for target in targets(path.read_text(encoding="utf-8"), source):
            copy = placed(target)
            if copy.startswith(f"{FILES}/") and copy not in files.src_uris:
                files.append(File.generated(config, copy, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out what is for plain files, and let links that leave this folder lead to copies."""
    del config, files
    uri = page.file.src_uri
    return markdown if uri in PAGES.values() else relinked(shown(markdown), f"docs/{uri}", uri)


def shown(markdown: str) -> str:
    r"""What the site shows of a page.

    >>> shown("a\n\n<!-- plain:begin -->\n\nb\n\n<!-- plain:end -->\n\nc")
    'a\n\nc'
    """
    return _PLAIN.sub("", markdown)


def placed(target: str) -> str:
    """Where a file of the repository lies on the site."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return PAGES.get(target, f"{FILES}/{target}")


def targets(text: str, source: str) -> list[str]:
    """The files of the repository that a page links to, from its top.

    Args:
      text: of the page.
      source: its own file, from the top of the repository.
    """
    found = []
    for _, link, _ in _LINK.findall(_prose(text)):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if "://" not in link and (ROOT / target).is_file():
            found.append(target)
    return found


def relinked(text: str, source: str, page: str) -> str:
    """The text of a page with its links as the site has them; links to nowhere stay.

    Args:
      text: of the page.
      source: its own file, from the top of the repository.
      page: its place on the site.
    """

    def one(match: re.Match[str]) -> str:
        begin, link, end = match.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        if "://" in link or not (ROOT / target).is_file():
            return match[0]
        return begin + posixpath.relpath(placed(target), posixpath.dirname(page) or ".") + end

    return _in_prose(text, lambda part: _LINK.sub(one, part))


def _in_prose(text: str, change: Callable[[str], str]) -> str:
    """Change what stands outside of blocks of code."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def _prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
