"""No reader opens a pipe or a device: it would wait for another program, or never end."""

import os
import socket

import pytest

from annotary.data.formats import write_as_h5ad
from annotary.data.hashing import hash_source
from annotary.data.hdf5 import open_hdf5
from annotary.data.labels import hash_label_table, read_label_table
from annotary.data.ontology import read_terms
from annotary.data.packed import open_text
from annotary.data.special_files import refuse_special_files
from annotary.errors import InputFileError

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(params=["pipe", "link"])
def pipe(request, tmp_path):
    """A named pipe, or a link to one."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    if request.param == "link":
        (tmp_path / "link").symlink_to(path)
    return tmp_path / request.param


@pytest.mark.parametrize(
    "read",
    [
        refuse_special_files,
        hash_source,
        hash_label_table,
        open_text,
        read_terms,
        lambda path: read_label_table(path, ["a"], "label"),
        lambda path: open_hdf5(path).__enter__(),
    ],
)
def test_no_reader_waits_for_a_pipe(read, pipe):
    with pytest.raises(InputFileError, match=r"found a (named )?pipe"):
        read(pipe)


def test_a_pipe_within_a_folder_is_refused(tmp_path):
    folder = tmp_path / "store.zarr" / "X"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "0.0")
    with pytest.raises(InputFileError, match=r"0\.0 needs to be a file that can be read; found a named pipe"):
        refuse_special_files(folder.parent)
    assert hash_source(folder.parent)


def test_a_pipe_in_a_matrix_folder_is_refused(tmp_path):
    (tmp_path / "barcodes.tsv").write_text("a\nb\n")
    (tmp_path / "genes.tsv").write_text("g1\tG1\n")
    os.mkfifo(tmp_path / "matrix.mtx")
    with pytest.raises(InputFileError, match="found a named pipe"):
        write_as_h5ad(tmp_path, tmp_path / "copy.h5ad")


def test_sockets_and_devices_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's address has few letters
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.h5ad")
        with pytest.raises(InputFileError, match="found a socket"):
            refuse_special_files(tmp_path / "socket.h5ad")
    (tmp_path / "zero.h5ad").symlink_to("/dev/zero")
    with pytest.raises(InputFileError, match="found a device"):
        refuse_special_files(tmp_path / "zero.h5ad")
