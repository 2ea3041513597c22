"""Doublet callers that say what a test tells them to, without training anything."""

import sys
from types import SimpleNamespace

import annotary.quality


def replace_caller(monkeypatch, method, call_lane) -> None:
    """Let a function call the doublets of each lane; the caller's own module is not imported."""
    caller = SimpleNamespace(call_lane=call_lane)
    monkeypatch.setitem(sys.modules, f"annotary.quality.{method}", caller)
    monkeypatch.setattr(annotary.quality, method, caller, raising=False)
