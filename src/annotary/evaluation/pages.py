"""Pages from templates: one file each, every text escaped, no script, nothing loaded."""

import base64
import re

import jinja2

_LONG = 300
_LOADER = jinja2.PackageLoader("annotary.evaluation")
_PAGES = jinja2.Environment(
    loader=_LOADER, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEXTS = jinja2.Environment(
    loader=_LOADER,
    # Markdown has no autoescape of its own: `finalize` below does the same for its signs.
    autoescape=False,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: escape_markdown(value) if isinstance(value, str) else value,
)
_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def escape_markdown(text: str) -> str:
    """Put a backslash before every sign that Markdown or HTML gives a meaning; line breaks become spaces."""
    return _SIGNS.sub(r"\\\1", " ".join(text.split()))


def render_page(
    template: str,
    *,
    title: str,
    facts: dict[str, str],
    pictures: dict[str, bytes],
    notes: list[str],
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
        Warnings on top; empty for none.
    content
        What the template's own block shows.
    """
    return _PAGES.get_template(template).render(
        title=title,
        facts=facts,
        long=_LONG,
        pictures={caption: base64.b64encode(png).decode() for caption, png in pictures.items()},
        notes=notes,
        **content,
    )


def render_markdown(template: str, **content: object) -> str:
    """Fill a Markdown template."""
    return _TEXTS.get_template(template).render(**content)
