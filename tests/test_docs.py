"""What the documentation shows works: queries and notebook run, commands exist, links and names lead somewhere."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import typer
import yaml

from cli.main import app
from rwmdata.home import Home
from rwmdata.views import run_sql
from rwmrl.export import ExportConfig, export_dataset

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("rwmdata", "rwmmodel", "rwmrl", "reports", "cli", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("assets/**/*.md")])
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
SNIPPETS = {
    f"{page.relative_to(ROOT).as_posix()}-{number}": code
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
}
QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "queries.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def small_home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("docs"))
    export_dataset(home, ExportConfig(transitions=600, num_envs=6, name="a"))
    return home


def test_there_are_ten_queries():
    assert len(QUERIES) == 10


@pytest.mark.parametrize("query", QUERIES)
def test_a_documented_query_runs(small_home, query):
    frame = run_sql(small_home, query)
    assert len(frame.columns) >= 3
    if "from transitions" in query or "from episodes" in query or "from datasets" in query:
        assert frame.height > 0


def commands(group, words=()):
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))
    if not hasattr(group, "commands"):
        yield words


def test_every_command_is_in_the_reference_and_every_command_there_exists():
    """``rwm data validate | ls`` stands for both."""
    block = re.search(r"```\n(.*?)```", (ROOT / "docs" / "commands.md").read_text(), re.DOTALL)[1]
    known = {" ".join(words) for words in commands(typer.main.get_command(app))}
    missing = [name for name in known if not all(word in block for word in name.split())]
    assert missing == []
    named = {m for m in re.findall(r"^rwm (\w[\w-]*(?: [a-z][\w-]*)?)", block, re.MULTILINE)}
    heads = {name.split()[0] for name in known}
    assert {n.split()[0] for n in named} <= heads


def target_of_heading(page, anchor):
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or target_of_heading(target, anchor), link


def test_every_page_can_be_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
        waiting += [(page.parent / link).resolve() for link in links]
    assert [p for p in PAGES if p not in seen] == []


def test_the_files_and_names_a_contributor_is_sent_to_exist():
    words = set(re.findall(r"`([^`\s]+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    source = "\n".join(p.read_text() for room in ROOMS for p in (ROOT / room).rglob("*.py"))
    files = {word for word in words if "/" in word and "<" not in word}
    names = {word.split(".")[-1] for word in words if re.fullmatch(r"[A-Z_][\w.]*[a-zA-Z]", word)}
    assert len(files) > 10 and len(names) > 10
    assert [file for file in files if not (ROOT / file).exists()] == []
    assert [name for name in names if not re.search(rf"\b{name}\b", source)] == []


def test_the_notebook_runs_from_export_to_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    with plt.rc_context({"backend": "agg"}):
        for cell in CELLS:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
        plt.close("all")
    curves = {line.get_label(): line.get_ydata() for line in names["figure"].axes[0].get_lines()}
    assert curves["model"][0] < curves["last state held"][0] and len(curves["linear model"]) > 2
    assert {run.kind for run in names["home"].runs()} == {"model", "policy", "eval", "report"}


def test_the_notebook_is_kept_with_the_outputs_of_one_run():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shown = [kind for cell in code for output in cell["outputs"] for kind in output.get("data", {})]
    assert "image/png" in shown


@pytest.mark.parametrize("name", SNIPPETS)
def test_what_a_python_example_imports_from_here_exists(name):
    for node in ast.walk(ast.parse(SNIPPETS[name])):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ROOMS:
            module = importlib.import_module(node.module)
            assert [a.name for a in node.names if not hasattr(module, a.name)] == []


@pytest.mark.parametrize("package", ["rwmdata", "rwmmodel", "rwmrl", "reports"])
def test_every_public_name_is_in_the_api_reference(package):
    module = importlib.import_module(package)
    expected = {f"{getattr(module, name).__module__}.{name}" for name in module.__all__}
    page = (ROOT / "docs" / "api" / f"{package}.md").read_text()
    assert set(re.findall(r"^::: (\S+)$", page, re.MULTILINE)) == expected


def places(nav):
    for entry in nav.values() if isinstance(nav, dict) else nav:
        yield from [entry] if isinstance(entry, str) else places(entry)


def test_every_page_is_in_the_navigation_of_the_site():
    shown = set(places(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    docs = ROOT / "docs"
    assert {p.relative_to(docs).as_posix() for p in docs.glob("**/*.md")} - {"README.md"} <= shown
