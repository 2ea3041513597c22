"""Names that somebody may give a label, a gene, a file or a sample, by accident or to do harm."""

RIGHT_TO_LEFT = "T\u202ellec\u2066 B"
LONG = "macrophage " * 45 + "in all"

NAMES = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE runs; --",
    "a|b",
    "\\|c\\",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "`code` ```",
    "two\nlines\r\n\r\n# three",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt; &amp; <!-- ",
    "~~T~~ **B** __NK__ | --- |",
    "https://example.org www.example.org @someone a@example.org :tada:",
    "$\\frac{1}{",
    RIGHT_TO_LEFT,
    "nul \x00 bell \x07 escape \x1b[31m",
    "half \ud83e of a pair",
    LONG,
    "",
)
"""Each is shown as it is, or so that a person sees what it holds; none means anything to a page or table."""

HARMLESS = "CD4+/CD45RA+ T_cell (αβ), 2-3 % *"

LABELS = (
    "<script>alert(1)</script>",
    "a,b;c",
    '"quoted"',
    "=cmd()",
    "β-Zellen — 細胞 🧬",
    "macrophage " * 27 + "in all",
    "T cell",
    "t cell",
    "100% {0} %s `code` | 'x'",
)
"""Names of labels that a file may hold, the sixth of 303 characters."""
