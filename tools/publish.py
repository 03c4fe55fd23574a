"""What a built site still needs to be published, whether MkDocs or Zensical has built it.

``python -m tools.publish [FOLDER]`` does this to the folder, which is ``site`` if it is not named:

- Each page gets a Content-Security-Policy, by which nothing runs and nothing is loaded but what
  the site itself has. A script within the page is named by its hash, so one that somebody else
  brings in does not run.
- Each page made from Markdown gets that Markdown beside it (``01-nodes.md`` beside ``01-nodes/``),
  and ``llms.txt`` lists them.
- Each of them gets links to edit it and to report a problem, if mkdocs.yml names a repository.
- A page that has moved tells search engines so.
- A page that describes no code loads no style sheet for that.
- What only its writers read does not travel: comments and indents of our scripts and style sheets,
  and elements around names and signs in code, which have the colour of the code.
"""

import base64
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tools.course import Lesson, pages, repository, site_settings
from tools.grammar import FrontMatter

CHARSET = re.compile(r'<meta charset="?utf-8"?>', re.IGNORECASE)
MOVED = re.compile(r'<meta content="0; url=(.*?)" http-equiv="refresh" />')
POLICY = '<meta http-equiv="Content-Security-Policy" content="'
REFERENCE_STYLE = re.compile(r'\s*<link rel="?stylesheet"? href="?[^">]*_mkdocstrings\.css"?>')
PLAIN_TOKEN = re.compile(r'<span class="(?:n|o|p|w)">([^<]*)</span>')
INLINE = re.compile(r"<(script|style)>\n.*?</\1>", re.DOTALL)  # of a player
COMMENT = {
    "script": re.compile(r"^\s*//.*\n", re.MULTILINE),
    "style": re.compile(r"/\*.*?\*/", re.DOTALL),
}
SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script>", re.DOTALL | re.IGNORECASE)
NO_CODE = re.compile(r"""\bsrc=|\btype=(?!["']?module)""")  # within a page
CANONICAL = re.compile(r'\s*<link rel="?canonical"?.*?>')


def policy(page: str) -> str:
    """The Content-Security-Policy of a page. Data in a script element does not run."""
    within = [code for attributes, code in SCRIPT.findall(page) if not NO_CODE.search(attributes)]
    digests = {hashlib.sha256(script.encode()).digest() for script in within}
    hashes = sorted(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    rules = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", *hashes]),
        "style-src": "'self' 'unsafe-inline'",  # a drawing tells its width in a style attribute
        "img-src": "'self' data:",  # the theme's icons
        "worker-src": "'self'",  # the search
        "frame-src": "'none'",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
    }
    return "; ".join(f"{rule} {sources}" for rule, sources in rules.items())


def lean(source: str, kind: str) -> str:
    """A script or a style sheet of ours without what only its writers read.

    No string in them goes over several lines with blanks that count.
    """
    return re.sub(r"^\s+", "", COMMENT[kind].sub("", source), flags=re.MULTILINE)


def built(source: Path) -> Path:
    """The page that is made from a file; both are relative to their folders."""
    folder = source.parent if source.stem == "index" else source.with_suffix("")
    return folder / "index.html"


def published(page: str, source: Path | None, markdown: str, repository: str) -> str:
    """A page with all that it still needs.

    Args:
        page: the page, as it was built.
        source: what it was made from, in the folder of the course; None for the page of an error.
        markdown: the address of that from the page.
        repository: OWNER/NAME on GitHub, or nothing.
    """
    page = INLINE.sub(lambda part: lean(part[0], part[1]), PLAIN_TOKEN.sub(r"\1", page))
    head = [f'{POLICY}{policy(page)}">']
    if source and (moved := MOVED.search(page)):
        page = MOVED.sub("", CANONICAL.sub("", page))
        head += [moved[0], f'<link rel="canonical" href="{moved[1]}">']
        head += ['<meta name="robots" content="noindex">']
    elif source:
        head += [f'<link rel="alternate" type="text/markdown" href="{markdown}">']
        page = with_links(page, source, repository) if repository else page
    if 'class="doc ' not in page:
        page = REFERENCE_STYLE.sub("", page)
    return CHARSET.sub(lambda charset: "\n".join([charset[0], *head]), page, count=1)


def with_links(page: str, source: Path, repository: str) -> str:
    """A page that offers to edit its source, and to report a problem."""
    github = f"https://github.com/{repository}"
    edit = f"{github}/edit/main/course/{source.as_posix()}"
    report = f"{github}/issues/new?title={quote(f'{source.as_posix()}: ')}"
    links = f'<a href="{edit}">Edit this page</a> · <a href="{report}">Report a problem</a>'
    before, end, after = page.rpartition("</article>")
    return f'{before}<p class="md-source-file">{links}</p>\n{end}{after}' if end else page


def listed(course: Path, settings: dict[str, Any]) -> Iterator[str]:
    """The lines of llms.txt: what this is, and each page with its description."""
    yield from (f"# {settings['site_name']}", "", f"> {settings['site_description']}")
    listed_pages = [Lesson(path) for path in pages(course) if path != course / "index.md"]
    listed_pages = [page for page in listed_pages if isinstance(page.parts[0], FrontMatter)]
    for title, is_lesson in (("Lessons", True), ("More", False)):
        yield from ("", f"## {title}", "")
        for page in listed_pages:
            if page.slug[0].isdigit() == is_lesson:
                address = page.path.relative_to(course).as_posix()
                yield f"- [{page.title}]({address}): {page.front_matter['description']}"


def publish(site: Path, root: Path) -> None:
    """Change the pages of a built site, and write beside them. Doing it again changes nothing."""
    course = root / "course"
    settings, github = site_settings(course), repository(course)
    sources = {built(path.relative_to(course)): path for path in course.rglob("*.md")}
    for path in sorted(site.rglob("*.html")):
        page = path.read_text(encoding="utf-8")
        if not CHARSET.search(page) or POLICY in page:
            continue  # a part of a page, or one that is done
        built_page = path.relative_to(site)
        source = sources.get(built_page)
        name = source.relative_to(course) if source else None
        markdown = "../" * (len(built_page.parts) - 1) + (name.as_posix() if name else "")
        with_all = published(page, name, markdown, github)
        path.write_text(with_all, encoding="utf-8")
        if source and name and not MOVED.search(page):
            shutil.copy(source, site / name)
    for name, kind in (("course.js", "script"), ("course.css", "style")):
        if (file := site / "assets" / name).is_file():
            file.write_text(lean(file.read_text(encoding="utf-8"), kind), encoding="utf-8")
    text = "\n".join(listed(course, settings)) + "\n"
    (site / "llms.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "site")
    if not (folder / "index.html").is_file():
        sys.exit(f"{folder} holds no built site; build it first: python -m mkdocs build")
    publish(folder, Path())
