"""`python -m handler.precompile DIRECTORY`: compiles the kernels that a checkpoint will be served with, without a GPU.

The image runs this when it is built, so that no cold start compiles. What is rehearsed is the worker's own step: its
forward and its sampler, on tensors without memory.
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
from handler.model.config import read_model_config
from handler.model.qwen import Qwen
from handler.model.template import Template
from handler.ops.pages import KVPages, Layout

META = torch.device("meta")


def rehearse(directory: Path, rows: int = 1, width: int = 1) -> None:
    """Run a decode step of the checkpoint in this directory; its weights are not read.

    No kernel depends on how many rows there are, nor on how wide their block tables are: any numbers will do.

    Raises:
        StartError: it is no model that kernels are there for.
    """
    config = read_model_config(directory, directory.name)
    if reason := config.beyond_merged():
        raise StartError(f"{directory.name} runs on transformers' modules ({reason}), which have kernels of their own")
    dtype = getattr(torch, config.dtype or "bfloat16")

    def nothing(names: Mapping[str, tuple[int, ...]]) -> Tensor:
        return torch.cat([torch.empty(shape, dtype=dtype, device=META) for shape in names.values()])

    model = Qwen(config, nothing, dtype, META)
    shape = model.shape
    cache = shape.layers, rows, PAGE_SIZE["cuda"], shape.kv_heads, shape.head_dim
    pages = KVPages(*cache, model.dtype, META, kernels=True)
    template = Template(tokenizer.read(directory, directory.name))
    sampler = Sampler(rows, shape.vocab, template.tokens_in_vocab, META, kernels=True)
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
    if find_spec("triton") is None:
        print("no Triton here, as beside a torch for CPUs: nothing to compile")
        return 0
    if not directory.is_dir():
        print(f"no weights in {directory}: compiled where they are served first")
        return 0
    from handler.precompile import cache as ahead

    ahead.listen(
        lambda name, compiled, seconds: print(f"  {name} {'compiled' if compiled else 'found'}, {seconds:.2f} s")
    )
    for architecture in ahead.ARCHITECTURES:
        print(f"sm_{architecture}")
        with ahead.compiling_for(architecture):
            try:
                rehearse(directory)
            except StartError as error:
                print(f"{error}: compiled where they are served first")
                break
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
