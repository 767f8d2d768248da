"""Without a GPU, every kernel of a decode step is compiled for each of RunPod's GPUs; later steps find them all.

Each test starts its own process, because tests of the kernels make Triton interpret in this one.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from handler.model.config import ModelConfig
from handler.model.snapshot import DEMO
from handler.precompile import __main__ as precompile
from handler.precompile.common import COMMON

triton = pytest.importorskip("triton", reason="there is no Triton for this platform")

ROOT = Path(__file__).parents[2]
KERNELS = {
    "_rms_norm", "_rotate_and_store", "_silu_mul", "_attend_split", "_combine", "_process", "_narrow", "_draw", "_pick",
}  # fmt: skip
#: runs steps of other sizes than the one that was compiled for
OTHER_SIZES = """
from pathlib import Path
from handler.precompile import cache
from handler.precompile.__main__ import compile_kernels, read_checkpoint
cache.listen(lambda name, compiled, _: print(name, compiled))
for rows, width in ((1, 1), (2, 16), (7, 3), (64, 512), (300, 100)):
    with cache.compiling_for(90):
        compile_kernels(*read_checkpoint(Path({directory!r})), rows, width)
"""
#: compiles the kernels of a common model, and then looks for those of its whole config.json, as the hub has it
WHOLE = """
from handler.model.config import ModelConfig
from handler.precompile import cache
from handler.precompile.__main__ import compile_kernels
from handler.precompile.common import COMMON
cache.listen(lambda name, compiled, _: print(name, compiled))
with cache.compiling_for(90):
    compile_kernels(*COMMON["Qwen2.5-0.5B"])
    print("whole")
with cache.compiling_for(90):
    compile_kernels(ModelConfig.model_validate({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
    }), 151665)
"""


def python(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TRITON")}
    return subprocess.run(
        [sys.executable, *arguments], env=environ | {"TRITON_CACHE_DIR": str(cache)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def kernels(lines: Sequence[str], word: str) -> list[str]:
    return [line.split()[0] for line in lines if re.search(rf"\b{word}\b", line)]


def test_steps_of_all_sizes_find_the_kernels_that_were_compiled_for_the_checkpoint(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "handler.precompile", str(DEMO))
    assert done.returncode == 0, done.stderr
    architectures = [line for line in done.stdout.splitlines() if line.startswith("sm_")]
    assert architectures == ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
    compiled = kernels(done.stdout.splitlines(), "compiled")
    assert {*compiled} == KERNELS
    assert len(compiled) == len(KERNELS) * len(architectures)
    again = python(tmp_path, "-c", OTHER_SIZES.format(directory=str(DEMO)))
    assert again.returncode == 0, again.stderr
    assert {*kernels(again.stdout.splitlines(), "False")} == KERNELS
    assert not kernels(again.stdout.splitlines(), "True")


def test_without_weights_the_kernels_of_the_common_models_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[tuple[int, str, int, int, int]] = []

    def note(config: ModelConfig, tokens: int) -> None:
        architecture = triton.runtime.driver.active.get_current_target().arch
        compiled.append((architecture, config.model_type, config.hidden_size, config.intermediate_size, tokens))

    monkeypatch.setattr(precompile, "compile_kernels", note)
    assert precompile.main(tmp_path / "none") == 0
    assert "no weights" in capsys.readouterr().out
    assert len({*compiled}) == len(compiled) == 6 * 11
    assert {(architecture, "qwen2", 3584, 18_944, 151_665) for architecture in (80, 86, 89, 90, 100, 120)} < {*compiled}


def test_a_checkpoint_of_a_common_model_finds_its_kernels(tmp_path: Path) -> None:
    done = python(tmp_path, "-c", WHOLE)
    assert done.returncode == 0, done.stderr
    first, _, whole = done.stdout.partition("whole\n")
    assert {*kernels(first.splitlines(), "True")} == KERNELS
    assert whole == "", "Triton has all of them in memory, and asks neither its compiler nor its cache"


def test_common_models_are_served_by_the_merged_forward_and_the_kernels() -> None:
    assert len(COMMON) == 11
    for config, tokens in COMMON.values():
        assert config.beyond_merged() is None
        assert config.shape(2).head_dim in (64, 128)
        assert tokens < config.vocab_size


def test_the_launcher_imports_only_the_files_that_its_stage_of_the_image_copies(tmp_path: Path) -> None:
    """Its layer stays cached when other code changes, and works without that code."""
    stage = re.search(r"AS launcher\n(.*?)\nFROM ", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.DOTALL)
    assert stage is not None
    copied = [line.split()[1:] for line in stage[1].splitlines() if line.startswith("COPY ")]
    assert [name for *names, _ in copied for name in names] == [
        "handler/__init__.py", "handler/precompile/__init__.py", "handler/precompile/launcher.py",
    ]  # fmt: skip
    for *names, to in copied:
        (tmp_path / to).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(ROOT / name, tmp_path / to)
    script = "import sys; import handler.precompile.launcher; print(*{'torch', 'triton', 'runpod'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
