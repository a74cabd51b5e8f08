"""The list of mutants keeps up with the code."""

from importlib.machinery import SourceFileLoader
from types import ModuleType

import pytest

from tests.servers import ROOT


def _load() -> ModuleType:
    import sys
    from importlib.util import module_from_spec, spec_from_loader

    loader = SourceFileLoader("mutants", str(ROOT / "scripts" / "mutants"))
    spec = spec_from_loader("mutants", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["mutants"] = module  # dataclasses look their module up
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


mutants = _load()


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_applies(mutant: object) -> None:
    """Its text stands once in its file, the result is Python if it was, and the tests that ought to notice exist."""
    text = mutants.text_of(mutant)
    if mutant.file.endswith(".py"):  # type: ignore[attr-defined]
        compile(text, "mutant", "exec")
    assert all((ROOT / test).exists() for test in mutant.tests)  # type: ignore[attr-defined]
