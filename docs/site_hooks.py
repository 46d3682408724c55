"""MkDocs hooks: pages that live outside of ``docs/``, and the notebook, as pages of the site; links follow them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "docs/quickstart.ipynb"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "assets/policies/README.md": "policies/index.md",
    "assets/policies/anymal_d/README.md": "policies/anymal_d.md",
    "assets/policies/go2/README.md": "policies/go2.md",
    "assets/models/anymal_d/README.md": "models/anymal_d.md",
    "assets/datasets/README.md": "datasets.md",
    NOTEBOOK: "quickstart.md",
}
"""Place in the repository -> page of the site."""
AS_SITE = PAGES | {"docs/README.md": "index.md"}
"""The table of all pages is the site's navigation."""
LINK = re.compile(r"(\]\()(?!https?:|#)([^)#\s]+)")
"""Of Markdown: its beginning, and the place it leads to without the anchor."""
ROLE = re.compile(r":\w+:<code>(?:~[\w.]*\.)?([^<]*)</code>")
"""A role in a docstring, ``:func:`~rwmmodel.fit.fit_model```; after a tilde the last part of the name is meant."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live outside of ``docs/``."""
    for place, page in PAGES.items():
        text = (ROOT / place).read_text()
        files.append(File.generated(config, page, content=as_markdown(text) if place == NOTEBOOK else text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links lead to the pages of the site."""
    place = {v: k for k, v in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    here = os.path.dirname(page.file.src_uri)

    def target(link: re.Match[str]) -> str:
        meant = os.path.normpath(os.path.join(os.path.dirname(place), link[2]))
        return link[1] + os.path.relpath(AS_SITE.get(meant, meant.removeprefix("docs/")), here or ".")

    return LINK.sub(target, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show roles in docstrings as names."""
    return ROLE.sub(r"<code>\1</code>", html)


def as_markdown(notebook: str) -> str:
    """Return a notebook's cells and outputs (texts, pictures) as Markdown."""
    return "\n\n".join(part for cell in json.loads(notebook)["cells"] for part in _parts(cell))


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return [source]
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(f"![](data:image/png;base64,{''.join(data['image/png']).strip()})")
        else:
            parts.append(f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```")
    return parts
