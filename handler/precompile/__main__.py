"""`python -m handler.precompile DIRECTORY`: compiles the kernels that serve a checkpoint, without a GPU.

Where the directory is missing, it compiles those of the models that are served most. It runs one decode step with the
worker's own forward and sampler on tensors without memory. Triton compiles each kernel that the step calls, under the
name under which a worker's start asks for it.
"""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from handler.errors import StartError
from handler.inference.plan import PAGE_SIZE
from handler.inference.sampler import Sampler
from handler.model import tokenizer
from handler.model.config import ModelConfig, read_model_config
from handler.model.qwen import Qwen
from handler.model.template import Template
from handler.ops.pages import KVPages, Layout
from handler.ops.parts import Parts
from handler.precompile.common import COMMON

META = torch.device("meta")


def read_checkpoint(directory: Path) -> tuple[ModelConfig, int]:
    """The configuration of the checkpoint in `directory` and the ids that its tokenizer has; reads no weights.

    Raises:
        StartError: the directory holds no checkpoint, or one that transformers' modules compute.
    """
    config = read_model_config(directory, directory.name)
    if reason := config.beyond_merged():
        raise StartError(f"{directory.name} runs on transformers' modules ({reason}), which do not use our kernels")
    return config, Template(tokenizer.read(directory, directory.name)).tokens_in_vocab


def compile_kernels(config: ModelConfig, tokens: int, rows: int = 1, width: int = 1) -> None:
    """Run a decode step of a model whose tokenizer has `tokens` ids, on tensors without memory.

    Call it inside `cache.compiling_for`. The kernels depend neither on `rows`, the rows of the step, nor on `width`,
    the pages in a row's block table; tests vary the two to prove it.
    """
    dtype = getattr(torch, config.dtype or "bfloat16")

    def without_memory(names: Mapping[str, tuple[int, ...]]) -> Tensor:
        return torch.cat([torch.empty(shape, dtype=dtype, device=META) for shape in names.values()])

    model = Qwen(config, without_memory, dtype, META)
    model.reserve(1)
    shape = model.shape
    size = shape.layers, rows, PAGE_SIZE["cuda"], shape.kv_heads, shape.head_dim
    pages = KVPages(*size, model.dtype, META, parts=Parts.every(True, "compiled"))
    sampler = Sampler(rows, shape.vocab, tokens, META, kernels=True)
    numbers = torch.zeros(rows, dtype=torch.int64, device=META)
    layout = Layout(
        slots=numbers,
        block_tables=torch.zeros(rows, width, dtype=torch.int32, device=META),
        context_lens=numbers.int(),
        query_starts=torch.zeros(rows + 1, dtype=torch.int32, device=META),
        query_lens=[1] * rows,
        context_lens_host=[],
        decode_rows=rows,
    )
    with torch.inference_mode():
        sampler.sample(model.forward(numbers, numbers, None, layout, pages), numbers, numbers)


def main(directory: Path) -> int:
    """Compile for every architecture, and print each kernel; where that is impossible, say so and succeed.

    Without weights, as in an image whose model comes later, the kernels of all `COMMON` models are compiled.
    """
    if find_spec("triton") is None:
        print("Triton is not installed, as with a PyTorch for CPUs: nothing to compile")
        return 0
    models = COMMON
    if directory.is_dir():
        try:
            models = {directory.name: read_checkpoint(directory)}
        except StartError as error:
            print(f"{error}: a worker compiles the kernels at its start")
            return 0
    else:
        print(f"no weights in {directory}: compiling for {', '.join(models)}")
    from handler.precompile import cache

    cache.listen(
        lambda name, compiled, seconds: print(f"  {name} {'compiled' if compiled else 'found'}, {seconds:.2f} s")
    )
    for architecture in cache.ARCHITECTURES:
        print(f"sm_{architecture}")
        with cache.compiling_for(architecture):
            for config, tokens in models.values():
                compile_kernels(config, tokens)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
