"""Pages from templates: one file each, every text escaped, no script, nothing loaded."""

import base64
import re
from collections.abc import Callable
from typing import Any

import jinja2

from annotary.evaluation.names import reveal, shorten

_LONG = 300
_BY_BACKSLASH = re.compile(r"([\\`*_{}\[\]#|~!])")
_BY_NUMBER = re.compile(r"[<>&@:]|(?<=www)\.", re.IGNORECASE)
"""Signs of HTML, links, mentions and emoji: MLflow's Markdown knows no backslash before some of them."""


def escape_markdown(text: str) -> str:
    """Take their meaning from all signs that Markdown or HTML gives one; line breaks become spaces."""
    text = _BY_BACKSLASH.sub(r"\\\1", reveal(" ".join(text.split())))
    return _BY_NUMBER.sub(lambda sign: f"&#{ord(sign.group())};", text)


def _make_environment(finalize: Callable[[str], str], *, autoescape: bool) -> jinja2.Environment:
    """Make an environment that lets ``finalize`` see every text before it is shown."""

    def finish(value: Any) -> Any:
        is_text = isinstance(value, str) and not hasattr(value, "__html__")
        return finalize(value) if is_text else value

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("annotary.evaluation"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finish,
    )
    made.filters["shorten"] = shorten
    return made


_PAGES = _make_environment(reveal, autoescape=True)
# Markdown has no autoescape of its own: `finalize` does the same for its signs.
_TEXTS = _make_environment(escape_markdown, autoescape=False)


def render_page(
    template: str,
    *,
    title: str,
    facts: dict[str, str],
    pictures: dict[str, bytes],
    notes: list[str],
    notes_title: str = "Warnings",
    **content: object,
) -> str:
    """Fill a template that extends ``page.html``.

    Parameters
    ----------
    template
        Its file.
    title
        Heading of the page.
    facts
        Provenance at the end; a value may have several lines.
    pictures
        Caption and PNG.
    notes
        What stands on top; empty for none.
    notes_title
        What they are.
    content
        What the template's own block shows.
    """
    return _PAGES.get_template(template).render(
        title=title,
        facts=facts,
        long=_LONG,
        pictures={caption: base64.b64encode(png).decode() for caption, png in pictures.items()},
        notes=notes,
        notes_title=notes_title,
        **content,
    )


def render_markdown(template: str, **content: object) -> str:
    """Fill a Markdown template."""
    return _TEXTS.get_template(template).render(**content)
