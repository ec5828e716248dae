"""What every page is made of: the frame, sections, paragraphs, tables with their files, figures."""

import base64
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template

from scaledq.report import figures, tables
from scaledq.report.tables import Table


def document(title: str, parts: Mapping[str, str], *, foot: str) -> str:
    """A self-contained page: page.html, with its style and script, around sections by title.

    The first one leads and shows no heading; a section without a body is left out.
    """
    shown = {name: body for name, body in parts.items() if body}
    lead, *others = shown
    links = (f'<a href="#{anchor(name)}">{escape(name)}</a>' for name in others)
    sections = [f'<section class="headline" id="{anchor(lead)}">\n{shown[lead]}\n</section>']
    for name in others:
        heading = f"<h2>{escape(name)}</h2>"
        sections.append(f'<section id="{anchor(name)}">\n{heading}\n{shown[name]}\n</section>')
    frame = files("scaledq.report").joinpath("page.html").read_text(encoding="utf-8")
    return Template(frame).substitute(
        title=escape(title),
        head=f"<nav>{''.join(links)}</nav>",
        body="\n".join(sections),
        foot=escape(foot, quote=False),
    )


def facts(pairs: Mapping[str, str]) -> str:
    """Names with their values, in columns; nothing for none."""
    cells = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs.items())
    return f'<dl class="facts">{"".join(cells)}</dl>' if pairs else ""


def figure(drawn: figures.Figure, name: str, caption: str) -> str:
    """A figure as inline SVG; `name` distinguishes its ids from those of the page's others."""
    svg = figures.svg(drawn, name=name, about=caption)
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(content: Table) -> str:
    """The table, and itself as files."""
    kinds = {"CSV": ("csv", tables.csv), "Markdown": ("md", tables.markdown)}
    kinds |= {"LaTeX": ("tex", tables.latex)}
    links = []
    for name, (suffix, write) in kinds.items():
        href = data_uri(write(content).encode(), "text/plain;charset=utf-8")
        links.append(f'<a download="{content.name}.{suffix}" href="{href}">{name}</a>')
    return f'<div class="scroll">{tables.html(content)}</div><p class="files">{"".join(links)}</p>'


def paragraph(content: str, kind: str = "") -> str:
    """Text; its `kind` is a class of page.html: `note` or `warning`."""
    inner = escape(content).replace(" %", "&nbsp;%")
    return f'<p class="{kind}">{inner}</p>' if kind else f"<p>{inner}</p>"


def anchor(title: str) -> str:
    """The id of the section with that title."""
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def data_uri(content: bytes, mime: str) -> str:
    """A file inside the page."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
