"""Inputs on a server: listed, known without fetching, fetched again after a break."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest
from simulate import write_cells

from annotary.errors import InputFileError
from annotary.scoring.discovery import Search, find_inputs
from annotary.scoring.remote import fetch_remote, identify_remote
from annotary.scoring.retry import PassingError, retry


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and counts what was fetched; fails as often as it is told."""

    def do_GET(self):
        self.server.fetched.append(self.path)
        if self.path.endswith(".h5ad") and self.server.failures:
            self.server.failures -= 1
            self.send_error(503)
            return
        super().do_GET()

    def end_headers(self):
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder of files and the server that gives them."""
    folder = tmp_path / "served"
    folder.mkdir()
    write_cells(folder / "a.h5ad", n_cells=20, seed=1)
    write_cells(folder / "b.h5ad", n_cells=20, seed=2)
    (folder / "c.h5ad.part").touch()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.fetched, server.failures, server.folder = [], 0, folder
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        server.address = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


def test_a_remote_folder_means_its_files(served):
    found = find_inputs(served.address + "/", Search(recursive=False)).inputs
    assert [(one.address, one.name) for one in found] == [
        (f"{served.address}/a.h5ad", "a"),
        (f"{served.address}/b.h5ad", "b"),
    ]


def test_several_addresses_are_separated_by_commas(served):
    text = f"{served.address}/b.h5ad,{served.address}/a.h5ad"
    assert [one.name for one in find_inputs(text).inputs] == ["b", "a"]


def test_a_file_is_known_by_what_its_server_says_without_fetching(served):
    before = identify_remote(f"{served.address}/a.h5ad")
    assert before.size == (served.folder / "a.h5ad").stat().st_size
    assert before.fingerprint
    assert identify_remote(f"{served.address}/a.h5ad") == before
    shutil.copy(served.folder / "b.h5ad", served.folder / "a.h5ad")
    assert identify_remote(f"{served.address}/a.h5ad") != before


def test_a_file_is_fetched_whole_after_a_server_was_away_for_a_moment(served, tmp_path, monkeypatch):
    monkeypatch.setattr("annotary.scoring.retry.WAITS_S", (0.0, 0.0, 0.0))
    served.failures = 2
    address = f"{served.address}/a.h5ad"
    retry(lambda: fetch_remote(address, tmp_path / "copy.h5ad"), place=address)
    assert (tmp_path / "copy.h5ad").read_bytes() == (served.folder / "a.h5ad").read_bytes()


def test_a_server_that_stays_away_leaves_the_file_for_the_next_run(served, tmp_path, monkeypatch):
    monkeypatch.setattr("annotary.scoring.retry.WAITS_S", (0.0,))
    served.failures = 9
    address = f"{served.address}/a.h5ad"
    with pytest.raises(PassingError, match="The next run tries it again"):
        retry(lambda: fetch_remote(address, tmp_path / "copy.h5ad"), place=address)


def test_a_file_that_is_not_there_is_an_error_and_not_tried_again(served):
    with pytest.raises(InputFileError, match="found nothing that can be read"):
        find_inputs(f"{served.address}/none.h5ad")
    with pytest.raises(InputFileError, match="no such file") as refused:
        fetch_remote(f"{served.address}/none.h5ad", Path("copy"))
    assert not isinstance(refused.value, PassingError)


def test_an_address_of_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(InputFileError, match=r"Protocol not known: carrier-pigeon"):
        find_inputs("carrier-pigeon://coop/a.h5ad")
