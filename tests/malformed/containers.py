"""Files that are no h5ad file, are damaged, point elsewhere, or have odd paths."""

import os
from pathlib import Path

import anndata
import h5py
import numpy as np

from malformed.cases import N_CELLS, accepted, clean, edited, refused, replace_element, write

_AGAIN = r"[Cc]opy|[Ww]rite"
_COPY = r"[Ww]rite|[Cc]opy|h5repack"


@refused("missing", expected="file that can be read", found="no such file", remedy="path")
def missing(folder: Path) -> Path:
    return folder / "cells.h5ad"


@refused(
    "broken symbolic link",
    expected="file that can be read",
    found="no such file: it is a link to '.*nowhere.h5ad'",
    remedy="path",
)
def broken_link(folder: Path) -> Path:
    (folder / "cells.h5ad").symlink_to(folder / "nowhere.h5ad")
    return folder / "cells.h5ad"


@refused("folder without files", expected="h5ad", found="files of other kinds", remedy="folder|[Nn]ame")
def empty_folder(folder: Path) -> Path:
    (folder / "incoming").mkdir()
    return folder / "incoming"


@refused("folder of other files", expected="h5ad", found="files of other kinds", remedy="folder|[Nn]ame")
def folder_of_text(folder: Path) -> Path:
    (folder / "incoming").mkdir()
    (folder / "incoming" / "readme.txt").write_text("nothing to read here\n")
    return folder / "incoming"


NOT_HDF5 = {"text": b"cell,gene\n1,2\n", "no bytes": b"", "a picture": b"\x89PNG\r\n\x1a\n" + bytes(600)}

for _name, _content in NOT_HDF5.items():

    @refused(
        f"not HDF5: {_name}",
        expected="h5ad",
        found=f"{len(_content)} bytes that is not HDF5",
        remedy="path|format|[Ww]rite",
    )
    def not_hdf5(folder: Path, content: bytes = _content) -> Path:
        path = folder / "cells.h5ad"
        path.write_bytes(content)
        return path


for _name, _kept in {"cut at half": 0.5, "cut at the last KB": -1024, "cut after the signature": 64}.items():

    @refused(_name, expected="whole h5ad", found="unreadable", remedy=_AGAIN)
    def cut(folder: Path, kept: float = _kept) -> Path:
        path = write(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
        return path


@refused(
    "zeros where bytes of the superblock were", expected="h5ad", found="not HDF5|unreadable", remedy=r"\w"
)
def overwritten_start(folder: Path) -> Path:
    path = write(folder)
    content = bytearray(path.read_bytes())
    content[8:96] = bytes(88)
    path.write_bytes(content)
    return path


@refused("a compressed chunk that does not unpack", expected="whole h5ad", found="unreadable", remedy=_AGAIN)
def corrupt_chunk(folder: Path) -> Path:
    path = folder / "cells.h5ad"
    clean().write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    return path


@accepted("bytes after the end of the file")
def trailing_bytes(folder: Path) -> Path:
    path = write(folder)
    with path.open("ab") as file:
        file.write(b"downloaded twice" * 64)
    return path


@refused("HDF5 of something else", expected="obs", found="matrix", remedy="anndata|h5ad")
def other_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "cells.h5ad", "w") as file:
        file["matrix"] = np.ones((3, 3))
    return folder / "cells.h5ad"


@refused("HDF5 without anything", expected="obs", found="empty", remedy="anndata|h5ad")
def empty_hdf5(folder: Path) -> Path:
    h5py.File(folder / "cells.h5ad", "w").close()
    return folder / "cells.h5ad"


for _name in ("obs", "var"):

    @refused(f"no {_name}", expected=_name, found="X", remedy="anndata|h5ad")
    def no_table(folder: Path, name: str = _name) -> Path:
        with edited(folder) as file:
            del file[name]
        return folder / "cells.h5ad"


@refused("no X", expected="raw counts", found="no such matrix", remedy="--counts-layer")
def no_matrix(folder: Path) -> Path:
    with edited(folder) as file:
        del file["X"]
    return folder / "cells.h5ad"


@refused("a table that is a number", place="obs", expected=r"\w", found=r"\w", remedy=_AGAIN)
def number_for_a_table(folder: Path) -> Path:
    with edited(folder) as file:
        del file["obs"]
        file["obs"] = 7
    return folder / "cells.h5ad"


@refused("a matrix of an unknown encoding", place="X", expected=r"\w", found="future", remedy=_AGAIN)
def unknown_encoding(folder: Path) -> Path:
    with edited(folder) as file:
        file["X"].attrs["encoding-type"] = "future_matrix"
    return folder / "cells.h5ad"


def _other_file(folder: Path, name: str = "X/data") -> Path:
    """Move an element into a second file, under the same name."""
    other = folder / "other.h5"
    with h5py.File(folder / "cells.h5ad", "r+") as file, h5py.File(other, "w") as target:
        parent, _, last = name.rpartition("/")
        file.copy(name, target.require_group(parent) if parent else target, last)
        del file[name]
    return other


for _name in ("X/data", "X", "obs", "obs/cell_type", "var", "uns/note"):

    @refused(
        f"external link at {_name}",
        place=_name.split("/")[0],
        expected="own content",
        found="external link",
        remedy=_COPY,
    )
    def external_link(folder: Path, name: str = _name) -> Path:
        adata = clean()
        adata.uns["note"] = np.arange(3)
        path = write(folder, adata)
        other = _other_file(folder, name)
        with h5py.File(path, "r+") as file:
            file[name] = h5py.ExternalLink(other.name, f"/{name}")
        return path


for _name in ("X/data", "X/indices"):

    @refused(
        f"virtual dataset at {_name}",
        place="X",
        expected="own content",
        found="virtual",
        remedy=_COPY,
    )
    def virtual_dataset(folder: Path, name: str = _name) -> Path:
        path = write(folder)
        other = _other_file(folder, name)
        with h5py.File(other) as file:
            source = h5py.VirtualSource(file[name])
            layout = h5py.VirtualLayout(shape=file[name].shape, dtype=file[name].dtype)
        layout[:] = source
        with h5py.File(path, "r+") as file:
            file.create_virtual_dataset(name, layout)
        return path


@refused(
    "dataset whose bytes lie in another file",
    place="X",
    expected="own content",
    found="external",
    remedy=_COPY,
)
def external_storage(folder: Path) -> Path:
    with edited(folder) as file:
        data = file["X/data"][:]
        del file["X/data"]
        raw = file["X"].create_dataset(
            "data", data.shape, data.dtype, external=[(str(folder / "raw.bin"), 0, data.nbytes)]
        )
        raw[:] = data
    return folder / "cells.h5ad"


@refused("soft link to itself", place="X", expected="own content", found="soft link", remedy=_COPY)
def loop(folder: Path) -> Path:
    with edited(folder) as file:
        del file["X"]
        file["X"] = h5py.SoftLink("/X")
    return folder / "cells.h5ad"


@refused("soft links in a circle", place="obs", expected="own content", found="soft link", remedy=_COPY)
def circle(folder: Path) -> Path:
    with edited(folder) as file:
        del file["obs"], file["var"]
        file["obs"], file["var"] = h5py.SoftLink("/var"), h5py.SoftLink("/obs")
    return folder / "cells.h5ad"


@refused("soft link inside the file", place="X", expected="own content", found="soft link", remedy=_COPY)
def inner_link(folder: Path) -> Path:
    with edited(folder) as file:
        file.move("X", "kept")
        file["X"] = h5py.SoftLink("/kept")
    return folder / "cells.h5ad"


@accepted("group that holds itself")
def own_parent(folder: Path) -> Path:
    with edited(folder) as file:
        file.require_group("uns")["loop"] = file["/"]
    return folder / "cells.h5ad"


@accepted("damaged element that nothing needs")
def damaged_obsm(folder: Path) -> Path:
    adata = clean()
    adata.obsm["X_pca"] = np.ones((N_CELLS, 2))
    with edited(folder, adata) as file:
        replace_element(file["obsm"], "X_pca", np.ones((3, 2)))
        file["obsm/X_pca"].attrs["encoding-type"] = "future_array"
    return folder / "cells.h5ad"


@refused("no permission to read", expected="h5ad|read", found="[Pp]ermission", remedy="permission|chmod|read")
def no_permission(folder: Path) -> Path:
    path = write(folder)
    path.chmod(0)
    return path


@refused("a named pipe", expected="h5ad|file", found="pipe|no (regular )?file|not HDF5", remedy=r"\w")
def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "cells.h5ad")
    return folder / "cells.h5ad"


@refused("a device", expected="h5ad|file", found=r"\w", remedy=r"\w")
def device(folder: Path) -> Path:
    return Path(os.devnull)


ODD_NAMES = {
    "spaces": "my cells 2.h5ad",
    "unicode": "Zellen-Ä-細胞.h5ad",
    "a comma": "cells,day 3.h5ad",
    "a quote and a percent sign": "50% o'cells.h5ad",
    "a leading dash": "-cells.h5ad",
    "upper-case suffix": "CELLS.H5AD",
    "no suffix": "cells",
    "brackets": "cells[1].h5ad",
}

for _what, _name in ODD_NAMES.items():

    @accepted(f"path with {_what}")
    def odd_name(folder: Path, name: str = _name) -> Path:
        return write(folder, name=name)


@accepted("symbolic link")
def symbolic_link(folder: Path) -> Path:
    target = write(folder, name="target.h5ad")
    (folder / "cells.h5ad").symlink_to(target)
    return folder / "cells.h5ad"


@accepted("read-only file")
def read_only(folder: Path) -> Path:
    path = write(folder)
    path.chmod(0o444)
    return path


@accepted("written with the newest HDF5 features")
def newest_hdf5(folder: Path) -> Path:
    path = folder / "cells.h5ad"
    with h5py.File(path, "w", libver="latest", userblock_size=512) as file:
        anndata.io.write_elem(file, "/", clean())
    return path
