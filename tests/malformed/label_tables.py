"""Tables of barcodes and labels."""

from pathlib import Path

import anndata

from malformed.cases import accepted, clean, refused, with_labels, write

LABEL_TABLE = ("--labels", "{folder}/labels.csv")


def write_label_table(folder: Path, content: str | bytes) -> None:
    (folder / "labels.csv").write_bytes(content.encode() if isinstance(content, str) else content)


def make_label_table(
    rows: slice = slice(None), *, separator: str = ",", line: str = "\n", column: str = "label", pad: str = ""
) -> str:
    labels = clean().obs["cell_type"].iloc[rows]
    lines = [f"{cell}{separator}{label}{pad}" for cell, label in labels.items()]
    return line.join([f"barcode{separator}{column}", *lines]) + line


def _without_labels(folder: Path) -> Path:
    adata = clean()
    del adata.obs["cell_type"]
    return write(folder, adata)


def labelled_half() -> anndata.AnnData:
    return clean()[:60].copy()


LABEL_TABLES: dict[str, str | bytes] = {
    "tabs": make_label_table(separator="\t"),
    "Windows line ends": make_label_table(line="\r\n"),
    "a byte order mark": b"\xef\xbb\xbf" + make_label_table().encode(),
    "blanks after labels": make_label_table(pad="  "),
    "quotes": make_label_table().replace("T cell", '"T cell"'),
    "further barcodes": make_label_table() + "elsewhere,Unicorn\n",
    "empty lines": make_label_table().replace("\n", "\n\n"),
    "another order": "\n".join(["barcode,label", *reversed(make_label_table().splitlines()[1:])]),
}

for _what, _content in LABEL_TABLES.items():

    @accepted(f"label table with {_what}", options=LABEL_TABLE)
    def label_table(folder: Path, content: str | bytes = _content) -> Path:
        write_label_table(folder, content)
        return _without_labels(folder)


@accepted(
    "label table of half of the cells",
    twin=labelled_half,
    says=("left out 60 cells: no label",),
    options=LABEL_TABLE,
)
def half_table(folder: Path) -> Path:
    write_label_table(folder, make_label_table(slice(60)))
    return _without_labels(folder)


@accepted("label table comes before obs", options=LABEL_TABLE)
def table_before_obs(folder: Path) -> Path:
    write_label_table(folder, make_label_table())
    return write(folder, with_labels("B cell"))


def mixed_labels() -> anndata.AnnData:
    values = (
        clean().obs["cell_type"].map({"B cell": "1", "NK cell": "2.5", "T cell": "T cell"}).to_numpy(object)
    )
    return with_labels(values)[9:].copy()


@accepted(
    "label table of mixed types", twin=mixed_labels, says=("left out 9 cells: no label",), options=LABEL_TABLE
)
def mixed_table(folder: Path) -> Path:
    lines = make_label_table().replace("NK cell", "2.5").replace("B cell", "1").splitlines()
    lines[1:10] = [line.split(",")[0] + "," for line in lines[1:10]]
    write_label_table(folder, "\n".join(lines))
    return _without_labels(folder)


BAD_TABLES: dict[str, tuple[str | bytes, str, str]] = {
    "repeated barcodes": (
        make_label_table() + "cell0004,B cell\ncell0005,B cell\n",
        "one row",
        "2 .*'cell0004'",
    ),
    "foreign barcodes": (make_label_table().replace("cell0", "other-"), "barcodes", "'other-000'"),
    "no line": ("", "table", "No columns|empty"),
    "a header only": ("barcode,label\n", "barcodes|rows", r"none|no "),
    "one column": (make_label_table(separator=" "), "table|column", "column|bounds|one"),
    "semicolons": (make_label_table(separator=";"), "table|column", "column|bounds|one|;"),
    "bytes that are no text": (b"\x89PNG\xff\xfe" + bytes(range(256)), "table", "decode|bytes|text"),
    "another number of fields": (make_label_table() + "x,y,z,w\n", "table", "[Ff]ields|columns"),
    "labels that are all missing": ("barcode,label\n" + "cell0001,\ncell0002,\n", "label", "none|no "),
}

for _what, (_content, _expected, _found) in BAD_TABLES.items():

    @refused(
        f"label table with {_what}",
        named="labels.csv",
        expected=_expected,
        found=_found,
        remedy=r"\w",
        options=LABEL_TABLE,
    )
    def bad_table(folder: Path, content: str | bytes = _content) -> Path:
        write_label_table(folder, content)
        return _without_labels(folder)


@refused(
    "label table that is not there",
    named="labels.csv",
    expected="table",
    found="[Nn]o such file",
    remedy="--labels",
    options=LABEL_TABLE,
)
def missing_table(folder: Path) -> Path:
    return _without_labels(folder)
