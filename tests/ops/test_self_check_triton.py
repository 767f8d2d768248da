"""The self-check names the part whose kernels fail or give a wrong result, and no part where all are healthy."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from handler.ops import attention_triton, layers_triton, sampling_triton, self_check
from handler.ops.check_step import Sizes
from handler.ops.parts import PARTS, Part, Parts
from tests.support.kernels import CUDA, DEVICE, gpu

pytestmark = pytest.mark.usefixtures("no_tf32", "quick_interpreter")

ROOT = Path(__file__).parents[2]
ON = Parts.every(kernels=True, reason="CUDA with Triton")
#: FlashAttention takes 16 bits, and is there on CUDA alone
ON_CPU = ON.without({"prefill": "no FlashAttention on a CPU"})
#: the parts that run the kernels of a module
KERNELS: dict[ModuleType, Part] = {attention_triton: "decode", layers_triton: "layers", sampling_triton: "sampler"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little as possible for the interpreter; still a page's edge, two splits, and two blocks in one of them."""
    if CUDA:
        return
    for name, value in {
        "LENGTHS": (1, 16, 17, 0, 150),
        "CHUNKS": ((5, 0), (3, 18), (1, 16)),
        "BEGINNINGS": ((5, 0), (3, 0)),
    }.items():
        monkeypatch.setattr(self_check, name, value)
    for name in ("LEAST_SPLITS", "MOST_SPLITS"):
        monkeypatch.setattr(attention_triton, name, 2, raising=False)


def sizes(**changed: Any) -> Sizes:
    small = {
        "heads": 4, "kv_heads": 2, "head_dim": 16, "hidden": 48, "intermediate": 40, "vocab": 500, "tokens": 490,
        "page_size": 16, "dtype": torch.float32, "device": DEVICE, "norms": True,
    }  # fmt: skip
    return Sizes(**{**small, **changed})


def check(parts: Parts = ON_CPU, **changed: Any) -> Parts:
    return self_check.check(parts, sizes(**changed), fatal=lambda _: False)


def only(part: Part) -> Parts:
    return Parts(part == "decode", part == "prefill", part == "layers", part == "sampler", ON.reasons)


def off(parts: Parts) -> set[Part]:
    return {part for part in PARTS if not getattr(parts, part)}


@pytest.mark.parametrize(("dtype", "norms"), [(torch.float32, True), (torch.float16, False)])
def test_healthy_kernels_stay_on(dtype: torch.dtype, norms: bool) -> None:
    assert check(dtype=dtype, norms=norms) == ON_CPU


# -- wrong results -----------------------------------------------------------------------------------------------------

#: module, what its source says, what the broken copy says
WRONG: dict[str, tuple[ModuleType, str, str]] = {
    "pages out of order": (
        attention_triton,
        "tl.load(tables + row * t_row + position // PAGE, mask=valid, other=0)",
        "(position // PAGE + 1)",
    ),
    "the last token lost": (
        attention_triton,
        "tl.minimum(begin + per_split, length)",
        "tl.minimum(begin + per_split, length - 1)",
    ),
    "the end of a context not masked": (
        attention_triton,
        'tl.where(valid[None, :], score, float("-inf"))',
        "score",
    ),
    "splits with equal weights": (
        attention_triton,
        'tl.exp(part - tl.where(best > float("-inf"), best, 0.0))',
        'tl.where(part > float("-inf"), 1.0, 0.0)',
    ),
    "values one head off": (
        attention_triton,
        "tl.load(values + at,",
        "tl.load(values + at + ((head + 1) % tl.num_programs(1) - head) * c_head,",
    ),
    "earlier blocks not scaled down": (attention_triton, "acc = acc * fade[:, None] +", "acc = acc +"),
    "a norm over the padding too": (layers_triton, "value * value, 0) / SIZE", "value * value, 0) / WIDTH"),
    "silu of the other half": (layers_triton, "(gate * up)", "(up / (1.0 + tl.exp(-up)) * gate)"),
    "keys and values in the next slot": (
        layers_triton,
        "slot = tl.load(slots + token) * kv_heads",
        "slot = (tl.load(slots + token) ^ 1) * kv_heads",
    ),
    "the sine of the other half": (layers_triton, "tl.load(angle + 3 * HALF)", "tl.load(angle + 2 * HALF)"),
    "draws not counted": (sampling_triton, "tl.store(seen, tl.load(seen) + 1)", "tl.store(seen, tl.load(seen))"),
    "noise of the next position": (sampling_triton, "tl.load(positions + at)", "(tl.load(positions + at) + 1)"),
    "top_p that cuts nothing": (sampling_triton, "total * top_p.to(tl.float64)", "total"),
    "top_k of one token more": (
        sampling_triton,
        "target = top_k.to(tl.float64)",
        "target = top_k.to(tl.float64) + 1",
    ),
    "min_p that cuts nothing": (sampling_triton, "(x >= least)", "(x == x)"),
    "a bias for the next token": (sampling_triton, "token == biased_token", "token == biased_token + 1"),
    "a bias that is not added": (sampling_triton, "x + tl.load(biases + next_bias)", "tl.load(biases + next_bias)"),
    "a part's first bias left out": (
        sampling_triton,
        "        if biased:\n            biased",
        "        if biased:\n            next_bias += 1\n            biased",
    ),
    "no row biased": (sampling_triton, "biased = tl.load(bias_ids + row * MOST) < tokens", "biased = tokens < 0"),
    "repetition multiplied": (sampling_triton, "tl.div_rn(x, repetition)", "x * repetition"),
}


def break_kernels(module: ModuleType, old: str, new: str, directory: Path, patch: pytest.MonkeyPatch) -> None:
    """Put the kernels of a copy of the module, in which one thing is wrong, into the module."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, f"{old!r} is in {module.__name__} {source.count(old)} times: change the table"
    path = directory / "broken.py"  # Triton reads a kernel's source from its file
    path.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("broken", path)
    assert spec is not None
    assert spec.loader is not None
    broken = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(broken)
    names = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    for name in names:
        patch.setattr(module, name, getattr(broken, name))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of what the broken kernels compute
@pytest.mark.parametrize("wrong", WRONG)
def test_a_kernel_that_computes_something_else_turns_its_part_off(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, old, new = WRONG[wrong]
    break_kernels(module, old, new, tmp_path, monkeypatch)
    part = KERNELS[module]
    found = check(only(part))
    assert not getattr(found, part)
    assert found.reasons[part].startswith("self-check: ")
    assert found.reasons[part].endswith(" gives another result than plain torch")


def test_an_operation_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_kernels(*WRONG["silu of the other half"], tmp_path, monkeypatch)
    assert check(only("layers")).reasons["layers"] == "self-check: silu_mul gives another result than plain torch"


# -- kernels that do not run -------------------------------------------------------------------------------------------

FAILURES = {
    "compile": CompilationError("x = 1", ast.parse("x = 1").body[0], "PTXAS error: unknown architecture"),
    "load": RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
    "launch": RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
    "driver": AssertionError("libcuda.so cannot found!"),
    "resources": OutOfResources(151_872, 101_376, "shared memory"),
}
#: what the operator reads of each
CAUSES = {
    "compile": "PTXAS error: unknown architecture",
    "load": "Triton Error [CUDA]: device kernel image is invalid",
    "launch": "Failed to find C compiler",
    "driver": "libcuda.so cannot found!",
    "resources": "out of resource: shared memory",
}


def fail(error: Exception, modules: set[str], patch: pytest.MonkeyPatch) -> None:
    """Let each launch of a kernel of these modules raise, as Triton does in the place of the interpreter."""
    from triton.runtime.interpreter import InterpretedFunction

    run = InterpretedFunction.run

    def launch(kernel: Any, *arguments: Any, **options: Any) -> Any:
        if kernel.fn.__module__ in modules:
            raise error
        return run(kernel, *arguments, **options)

    patch.setattr(InterpretedFunction, "run", launch)


@pytest.mark.skipif(CUDA, reason="the launcher is the interpreter's")
@pytest.mark.parametrize("stage", FAILURES)
def test_where_no_kernel_runs_every_part_is_off_and_the_reason_is_there(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(FAILURES[stage], {module.__name__ for module in KERNELS}, monkeypatch)
    found = check()
    assert off(found) == {*PARTS}
    for part in KERNELS.values():
        assert found.reasons[part].startswith(f"self-check: {type(FAILURES[stage]).__name__}: {CAUSES[stage]}")
        assert "\n" not in found.reasons[part]


@pytest.mark.skipif(CUDA, reason="the launcher is the interpreter's")
@pytest.mark.parametrize("module", KERNELS, ids=lambda module: module.__name__)
def test_kernels_that_do_not_run_turn_only_their_own_part_off(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(FAILURES["launch"], {module.__name__}, monkeypatch)
    assert off(check()) == off(ON_CPU.without({KERNELS[module]: ""}))


def test_a_part_that_is_off_already_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_layers", "_decode", "_prefill", "_sampler"):
        monkeypatch.setattr(self_check, name, lambda _: pytest.fail("a part was run"))
    plain = Parts.every(kernels=False, reason="set by ATTENTION")
    assert check(plain) == plain


def test_a_triton_that_cannot_be_imported_turns_its_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in KERNELS:
        monkeypatch.setitem(sys.modules, module.__name__, None)
        monkeypatch.delattr(f"handler.ops.{module.__name__.rpartition('.')[2]}")
    found = check()
    assert off(found) == {*PARTS}
    assert "ImportError" in found.reasons["decode"] or "ModuleNotFoundError" in found.reasons["decode"]


@pytest.mark.skipif(CUDA, reason="Triton finds a device")
def test_triton_as_it_is_on_a_machine_without_a_device_turns_its_kernels_off() -> None:
    script = """
import torch
from handler.ops.check_step import Sizes
from handler.ops.parts import Parts
from handler.ops.self_check import check
sizes = Sizes(4, 2, 16, 48, 40, 500, 490, 16, torch.float32, torch.device("cpu"), False)
print(*sorted(check(Parts.every(True, "on"), sizes, fatal=lambda _: False).reasons.items()), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("active drivers") == 3, done.stdout


def test_an_error_after_which_the_device_is_lost_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: Sizes) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(self_check, "_decode", lost)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        self_check.check(ON_CPU, sizes(), fatal=lambda error: "illegal" in str(error))


# -- FlashAttention ----------------------------------------------------------------------------------------------------


def flash(query: Tensor, key: Tensor, value: Tensor, q: Tensor, k: Tensor, *rest: Any, shift: int, **named: Any) -> Any:
    """In place of torch's operator, which runs on CUDA alone: SDPA for each row, with a causal mask from its end."""
    out, group = torch.empty(query.shape, dtype=query.dtype), query.shape[1] // key.shape[1]
    for row in range(len(q) - 1):
        (q0, q1), (k0, k1) = q[row : row + 2].tolist(), k[row : row + 2].tolist()
        mask = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril((k1 - k0) - (q1 - q0) + shift)
        mask[:, 0] = True
        rows, keys, values = (x.float().transpose(0, 1) for x in (query[q0:q1], key[k0:k1], value[k0:k1]))
        keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
        attended = scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=named["scale"])
        out[q0:q1] = attended.transpose(0, 1).to(out.dtype)
    return (out,)


@pytest.mark.parametrize(("shift", "on"), [(0, True), (-1, False), (1, False)])
def test_flash_attention_that_masks_otherwise_leaves_prefill_to_sdpa(
    shift: int, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def operator(*arguments: Any, **named: Any) -> Any:
        return flash(*arguments, shift=shift, **named)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", operator)
    found = check(only("prefill"), dtype=torch.float16)
    assert found.prefill is on
    assert on or found.reasons["prefill"] == "self-check: flash_prefill gives another result than plain torch"


@pytest.mark.parametrize(
    "operator",
    [
        lambda *_, **__: (_ for _ in ()).throw(TypeError("an unexpected argument 'scale'")),
        lambda query, *_, **__: (query,),
    ],
    ids=["another signature", "queries returned"],
)
def test_flash_attention_of_another_kind_leaves_prefill_to_sdpa(
    operator: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", operator)
    assert not check(only("prefill"), dtype=torch.float16).prefill


class TestOnDevice:
    pytestmark = gpu

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    @pytest.mark.parametrize(
        "shape",
        [
            {"heads": 28, "kv_heads": 4, "head_dim": 128, "hidden": 3584, "intermediate": 18_944, "norms": False},
            {"heads": 14, "kv_heads": 2, "head_dim": 64, "hidden": 896, "intermediate": 4864, "norms": False},
            {"heads": 32, "kv_heads": 8, "head_dim": 128, "hidden": 4096, "intermediate": 12_288, "norms": True},
        ],
        ids=["Qwen2.5-7B", "Qwen2.5-0.5B", "Qwen3-8B"],
    )
    def test_nothing_is_turned_off_on_this_gpu(self, shape: dict[str, Any], dtype: torch.dtype) -> None:
        parts = ON if dtype.itemsize == 2 else ON.without({"prefill": "FlashAttention takes no float32"})
        assert check(parts, **shape, dtype=dtype, vocab=152_064, tokens=151_665, page_size=64) == parts
