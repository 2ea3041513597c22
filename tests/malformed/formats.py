"""Formats other than h5ad and those of Cell Ranger: gzip, zarr, npy."""

import gzip
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
from scipy.sparse import csr_matrix
from zarr import consolidate_metadata, open_group

from malformed.cases import N_CELLS, N_GENES, accepted, clean, label_names, refused, write

_AGAIN = r"[Cc]opy|[Ww]rite|[Dd]ownload|[Gg]ive"
_PICKLE = ("--allow-pickle",)

# gzip


def _write_gz(folder: Path, content: bytes) -> Path:
    path = folder / "cells.h5ad.gz"
    path.write_bytes(content)
    return path


def _h5ad_bytes(folder: Path) -> bytes:
    path = write(folder)
    content = path.read_bytes()
    path.unlink()
    return content


@accepted("gzipped")
def gzipped(folder: Path) -> Path:
    return _write_gz(folder, gzip.compress(_h5ad_bytes(folder)))


@accepted("gzipped in two members")
def two_members(folder: Path) -> Path:
    content = _h5ad_bytes(folder)
    half = len(content) // 2
    return _write_gz(folder, gzip.compress(content[:half]) + gzip.compress(content[half:]))


BAD_GZ: dict[str, Callable[[bytes], bytes]] = {
    "cut at half": lambda packed: packed[: len(packed) // 2],
    "without its last byte": lambda packed: packed[:-1],
    "with a wrong checksum": lambda packed: packed[:-8] + bytes(4) + packed[-4:],
    "plain text": lambda packed: b"not packed at all",
    "no bytes": lambda packed: b"",
}

for _what, _damage in BAD_GZ.items():

    @refused(f"gz: {_what}", expected="gz|h5ad", found=r"unreadable|not gz|\d bytes", remedy=_AGAIN + "|path")
    def bad_gz(folder: Path, damage: Callable[[bytes], bytes] = _damage) -> Path:
        return _write_gz(folder, damage(gzip.compress(_h5ad_bytes(folder))))


@refused("gz of a text", expected="h5ad", found="not HDF5", remedy=r"\w")
def gz_of_text(folder: Path) -> Path:
    return _write_gz(folder, gzip.compress(b"cell,gene\n"))


@refused("gz of a cut h5ad", expected="h5ad", found="unreadable", remedy=_AGAIN)
def gz_of_cut(folder: Path) -> Path:
    content = _h5ad_bytes(folder)
    return _write_gz(folder, gzip.compress(content[: len(content) // 2]))


@refused(
    "gz of an h5ad with an external link",
    expected="inside|one file|own|itself|link",
    found="external link",
    remedy=r"\w",
)
def gz_of_link(folder: Path) -> Path:
    path = write(folder)
    with h5py.File(path, "r+") as file:
        del file["obs"]
        file["obs"] = h5py.ExternalLink("other.h5", "/obs")
    content = path.read_bytes()
    path.unlink()
    return _write_gz(folder, gzip.compress(content))


# zarr


def _write_zarr(folder: Path, **options: object) -> Path:
    path = folder / "cells.zarr"
    clean().write_zarr(path, **options)
    return path


@accepted("zarr")
def zarr(folder: Path) -> Path:
    return _write_zarr(folder)


def _write_in_chunks(folder: Path, adata: anndata.AnnData, size: int) -> Path:
    """Write a store with small chunks, as zarr does it: chunks of zeros are left out."""
    path = folder / "cells.zarr"
    adata.write_zarr(path)
    group = open_group(path / "X", mode="r+")
    for name in ("data", "indices", "indptr"):
        values, attributes = group[name][:], dict(group[name].attrs)
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=(size,), overwrite=True
        )
        array[:] = values
        array.attrs.update(attributes)
    return path


def first_cells_empty() -> anndata.AnnData:
    adata = clean()
    counts = adata.X.toarray()
    counts[:45] = 0
    adata.X = csr_matrix(counts)
    return adata


@accepted("zarr with chunks of empty cells", twin=first_cells_empty, says=("left out 45 cells",))
def zarr_empty_cells(folder: Path) -> Path:
    path = _write_in_chunks(folder, first_cells_empty(), 20)
    assert not (path / "X" / "indptr" / "0").exists()
    return path


def only_gene() -> anndata.AnnData:
    return clean()[:, 20:21].copy()


@accepted("zarr of one gene", twin=only_gene, options=("--min-genes", "1"), twin_options=("--min-genes", "1"))
def zarr_one_gene(folder: Path) -> Path:
    path = _write_in_chunks(folder, only_gene(), 1000)
    assert not (path / "X" / "indices" / "0").exists()
    return path


def _find_chunk(path: Path, array: str) -> Path:
    """Find the first chunk file of an array, in either version of the format."""
    return next(
        file for file in sorted((path / array).rglob("*")) if file.is_file() and file.name[0].isdigit()
    )


def _drop_group(name: str) -> Callable[[Path], None]:
    return lambda path: shutil.rmtree(path / name)


def _drop_chunk(array: str) -> Callable[[Path], None]:
    return lambda path: _find_chunk(path, array).unlink()


def _drop_one_of_many(path: Path) -> None:
    group = open_group(path / "X", mode="r+")
    values = group["data"][:]
    attributes = dict(group["data"].attrs)
    array = group.create_array("data", shape=values.shape, dtype=values.dtype, chunks=(500,), overwrite=True)
    array[:] = values
    array.attrs.update(attributes)
    consolidate_metadata(path)
    sorted(file for file in (path / "X" / "data").rglob("*") if file.name[0].isdigit())[2].unlink()


def _drop_first_starts(path: Path) -> None:
    shutil.rmtree(path)
    _write_in_chunks(path.parent, clean(), 20)
    (path / "X" / "indptr" / "0").unlink()


def _cut_chunk(array: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        chunk = _find_chunk(path, array)
        chunk.write_bytes(chunk.read_bytes()[:10])

    return damage


def _break_metadata(path: Path) -> None:
    for name in ("zarr.json", ".zgroup", ".zattrs", ".zmetadata"):
        if (path / name).exists():
            (path / name).write_text("{")


def _empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


BAD_ZARR: dict[str, Callable[[Path], None]] = {
    "without obs": _drop_group("obs"),
    "without var": _drop_group("var"),
    "without X": _drop_group("X"),
    "without X/indptr": _drop_group("X/indptr"),
    "with a lost chunk of values": _drop_chunk("X/data"),
    "with one of many chunks of values lost": _drop_one_of_many,
    "with a lost chunk of indices": _drop_chunk("X/indices"),
    "with a lost chunk of indptr": _drop_chunk("X/indptr"),
    "with the first of many chunks of indptr lost": _drop_first_starts,
    "with a lost chunk of cell ids": _drop_chunk("obs/_index"),
    "with a cut chunk": _cut_chunk("X/data"),
    "with broken metadata": _break_metadata,
    "without anything": _empty,
}

for _what, _damage in BAD_ZARR.items():

    @refused(f"zarr {_what}", expected=r"zarr|raw counts|AnnData", found=r"\w", remedy=r"\w")
    def bad_zarr(folder: Path, damage: Callable[[Path], None] = _damage) -> Path:
        path = _write_zarr(folder)
        damage(path)
        return path


# npy


def _content() -> dict[str, object]:
    adata = clean()
    return {
        "UMI": adata.X,
        "gene_ids": adata.var_names.to_numpy(dtype=str),
        "classes": adata.obs["cell_type"].to_numpy(dtype=str),
    }


def _save(folder: Path, content: object) -> Path:
    np.save(folder / "cells.npy", np.array(content, dtype=object), allow_pickle=True)
    return folder / "cells.npy"


def numbered() -> anndata.AnnData:
    adata = clean()
    adata.obs_names = [f"cell{cell}" for cell in range(N_CELLS)]
    return adata


def numbered_mixed() -> anndata.AnnData:
    adata = numbered()
    adata.obs["cell_type"] = [
        {"B cell": "1", "NK cell": "2.5"}.get(name, name) for name in adata.obs["cell_type"]
    ]
    return adata[9:].copy()


@accepted("npy", twin=numbered, options=_PICKLE)
def npy(folder: Path) -> Path:
    return _save(folder, _content())


@accepted(
    "npy with classes of mixed types",
    twin=numbered_mixed,
    says=("left out 9 cells: no label",),
    options=_PICKLE,
)
def mixed_classes(folder: Path) -> Path:
    classes = [{"B cell": 1, "NK cell": 2.5}.get(name, name) for name in clean().obs["cell_type"]]
    classes[:9] = [np.nan, None] * 4 + [float("nan")]
    return _save(folder, _content() | {"classes": np.array(classes, dtype=object)})


@accepted("npy with boolean classes", twin=None, check=label_names("False", "True"), options=_PICKLE)
def boolean_classes(folder: Path) -> Path:
    return _save(folder, _content() | {"classes": np.arange(N_CELLS) % 2 == 0})


class _Intruder:
    """A pickle that makes a file where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@refused(
    "npy without --allow-pickle", expected="--allow-pickle", found="code", remedy="--allow-pickle.*trust"
)
def npy_not_allowed(folder: Path) -> Path:
    path = folder / "cells.npy"
    np.save(path, np.array(_Intruder(folder / "was_run"), dtype=object), allow_pickle=True)
    return path


def _without(name: str) -> dict[str, object]:
    return {key: value for key, value in _content().items() if key != name}


BAD_NPY: dict[str, tuple[Callable[[], object], str]] = {
    "without UMI": (lambda: _without("UMI"), "UMI"),
    "without gene_ids": (lambda: _without("gene_ids"), "gene_ids"),
    "without classes": (lambda: _without("classes"), "classes"),
    "with too few classes": (lambda: _content() | {"classes": ["B cell"] * 7}, r"\b7\b|[Ll]ength|shape"),
    "with too few gene ids": (lambda: _content() | {"gene_ids": ["CD3E"] * 7}, r"\b7\b|[Ll]ength|shape"),
    "with a matrix of text": (lambda: _content() | {"UMI": [["a"] * N_GENES] * N_CELLS}, r"\w"),
    "of a list": (lambda: [1, 2, 3], r"\w"),
    "of nothing": (lambda: [], r"\w"),
}

for _what, (_make, _found) in BAD_NPY.items():

    @refused(
        f"npy {_what}",
        expected="UMI, gene_ids and classes|dict|cells",
        found=_found,
        remedy=r"\w",
        options=_PICKLE,
    )
    def bad_npy(folder: Path, make: Callable[[], object] = _make) -> Path:
        return _save(folder, make())


@refused(
    "npy of plain numbers",
    expected="UMI, gene_ids and classes|dict",
    found=r"\w",
    remedy=r"\w",
    options=_PICKLE,
)
def numbers(folder: Path) -> Path:
    np.save(folder / "cells.npy", np.ones((3, 3)))
    return folder / "cells.npy"


@refused(
    "npy of a bare pickle",
    expected="UMI, gene_ids and classes|dict",
    found=r"\w",
    remedy=r"\w",
    options=_PICKLE,
)
def bare_pickle(folder: Path) -> Path:
    (folder / "cells.npy").write_bytes(pickle.dumps("nothing"))
    return folder / "cells.npy"


@refused(
    "npy cut at half",
    expected="UMI, gene_ids and classes|dict",
    found="unreadable",
    remedy=_AGAIN,
    options=_PICKLE,
)
def cut_npy(folder: Path) -> Path:
    path = _save(folder, _content())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@refused(
    "npy of a class that is not there",
    expected="UMI, gene_ids and classes|dict",
    found=r"\w",
    remedy=r"\w",
    options=_PICKLE,
)
def unknown_class(folder: Path) -> Path:
    path = _save(folder, _content())
    path.write_bytes(path.read_bytes().replace(b"scipy.sparse", b"xcipy.sparse"))
    return path
