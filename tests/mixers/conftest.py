"""What tests of Triton kernels share: the interpreter, at three times its speed."""

import dataclasses
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def interpreter():
    """Triton's interpreter without what it does in vain.

    On its own it replaces the language's functions again in every call of one `@triton.jit`
    function by another (they are the same ones each time), computes whether a sum of integers
    overflows and does not look at the answer, and copies tensors of the CPU to the CPU.
    """
    own = pytest.importorskip("triton.runtime.interpreter", reason="triton is not installed")
    import triton.language as tl

    replace, launch = own._patch_lang, own.GridExecutor.__call__
    whole = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})

    def once(self, *given, **named):
        def outer(kernel):
            own._patch_lang = lambda inner: SimpleNamespace(restore=lambda: None)
            return replace(whole)

        own._patch_lang = outer
        try:
            return launch(self, *given, **named)
        finally:
            own._patch_lang = replace

    builder = own.interpreter_builder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own.GridExecutor, "__call__", once)
        patch.setattr(own.GridExecutor, "_init_args_hst", lambda self, given, named: (given, named))
        patch.setattr(own.GridExecutor, "_restore_args_dev", lambda self, *given: None)
        unchecked = dataclasses.replace(builder.options, sanitize_overflow=False)
        patch.setattr(builder, "options", unchecked)
        yield
