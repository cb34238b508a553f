"""What the README says runs, and what it points to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import torchreg

ROOT = Path(__file__).parent.parent
PAGES = [
    page
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")
    if (ROOT / page).exists()
] + [str(page.relative_to(ROOT)) for page in sorted(ROOT.glob("examples/*.md"))]
EACH_PAGE = pytest.mark.parametrize("page", PAGES)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", flags=re.MULTILINE | re.DOTALL)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """Give each block of code in a language, with the number of its first line."""
    text = read(page)
    return [
        (text[: match.start(2)].count("\n") + 1, match[2])
        for match in FENCE.finditer(text)
        if match[1] == language
    ]


def test_the_python_of_the_readme_runs_from_top_to_bottom(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # It writes files where it runs.
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    code = blocks("README.md", "python")
    assert code
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, source in code:
        # Blank lines before it, so that a traceback names the line of the README.
        exec(compile("\n" * (line - 1) + source, str(ROOT / "README.md"), "exec"), namespace)


@EACH_PAGE
def test_every_relative_link_and_picture_is_there(page: str) -> None:
    # A picture may be a link's text, so links are what stands in parentheses.
    targets = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", FENCE.sub("", read(page)))
    targets += re.findall(r"(?:src|href)=\"([^\"]+)\"", read(page))
    here = (ROOT / page).parent
    missing = [
        target
        for target in targets
        if not re.match(r"[a-z]+:|#", target) and not (here / target.partition("#")[0]).exists()
    ]
    assert missing == []


@EACH_PAGE
def test_every_link_to_a_heading_leads_to_one(page: str) -> None:
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", FENCE.sub("", read(page)), flags=re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)\s]+)\)", read(page)))
    assert links <= headings


@EACH_PAGE
def test_every_make_target_that_is_mentioned_is_in_the_makefile(page: str) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", read("Makefile"), flags=re.MULTILINE))
    in_text = re.findall(r"`([^`\n]+)`", FENCE.sub("", read(page)))
    code = [*in_text, *(source for _, source in blocks(page, "sh"))]
    mentioned = {name for text in code for name in re.findall(r"\bmake ([a-z][\w-]*)", text)}
    assert mentioned <= targets
    if page == "README.md":
        assert {"demo", "test"} <= mentioned


@EACH_PAGE
def test_every_script_that_is_to_be_run_is_there(page: str) -> None:
    shell = "\n".join(source for _, source in blocks(page, "sh"))
    scripts = re.findall(r"\b(?:python|bash|pytest) ([\w./-]+/[\w.-]+)", shell)
    assert [script for script in scripts if not (ROOT / script).exists()] == []


@EACH_PAGE
def test_no_place_is_left_to_be_filled_in(page: str) -> None:
    assert re.findall(r"^[A-Z]+_[A-Z_]+$|\b(?:TODO|FIXME|TBD)\b", read(page), re.MULTILINE) == []


def test_the_version_to_be_cited_is_the_version_of_the_package() -> None:
    said = re.findall(r"version\s*=\s*\{([^}]+)\}", read("README.md"))
    said += re.findall(r"^version: \"?([\w.]+)", read("CITATION.cff"), flags=re.MULTILINE)
    assert set(said) == {torchreg.__version__}
