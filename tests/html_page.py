"""An HTML page, taken apart."""

from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; ``open_tags`` is empty if all are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open_tags: list[str] = []
        self.cells: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_tags.append(tag)
        if tag in {"td", "th"}:
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        if self.open_tags and self.open_tags[-1] in {"td", "th"}:
            self.cells[-1] += data

    def find(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def row_after(self, name: str, n_cells: int) -> list[str]:
        start = self.cells.index(name) + 1
        return self.cells[start : start + n_cells]
