"""Patterns end, whatever links there are, and find what glob finds."""

import glob
import os

import pytest

from annotary.scoring.globbing import find_matches


@pytest.fixture
def tree(tmp_path):
    for name in ("a.h5ad", "one/b.h5ad", "one/two/c.h5ad", "one/two/c.txt", ".hidden/d.h5ad", "x[1]/e.h5ad"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "pattern", ["*", "*.h5ad", "**/*.h5ad", "one/**/*.h5ad", "**/two/*", "*/**/c.*", "**/none", "none/**/*"]
)
def test_a_pattern_finds_what_glob_finds(pattern, tree):
    text = str(tree / pattern)
    assert find_matches(text) == sorted(set(glob.glob(text, recursive=True)))


def test_relative_patterns_are_taken_from_the_current_folder(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert find_matches("**/*.h5ad") == ["a.h5ad", "one/b.h5ad", "one/two/c.h5ad", "x[1]/e.h5ad"]


def test_links_in_a_circle_come_to_an_end_and_hide_nothing(tree):
    for name in ("up", "also"):
        os.symlink("..", tree / "one" / name)
        os.symlink(".", tree / name)
    found = find_matches(str(tree / "**" / "*.h5ad"))
    assert {os.path.realpath(path) for path in found} == {
        str(tree / name) for name in ("a.h5ad", "one/b.h5ad", "one/two/c.h5ad", "x[1]/e.h5ad")
    }
    assert len(found) == 4


def test_two_patterns_of_any_depth_over_links_in_a_circle_come_to_an_end(tree):
    for name in ("up", "also"):
        os.symlink("..", tree / "one" / name)
    assert str(tree / "one" / "two" / "c.h5ad") in find_matches(str(tree / "**" / "two" / "**" / "c.h5ad"))
