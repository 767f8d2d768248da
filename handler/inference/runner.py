"""Runs one step on the device: batch tensors, forward, sampling, CUDA graphs.

Knows steps, rows, pages and tensors; no text, no stream and no clock.
"""

from itertools import accumulate, chain

import torch
from torch import Tensor

from handler import log
from handler.engine.protocol import ModelInfo
from handler.inference.config import EngineConfig
from handler.inference.draws import Draws
from handler.inference.model import Model
from handler.inference.sampler import Sampler
from handler.inference.step import S, Sequence, Step
from handler.ops import attention
from handler.ops.pages import KVPages, Layout


class Runner:
    """Keeps the state of every row on the device, and uploads only changes.

    The state of a row is its last token, its length and its pages. A decode step needs only these and the list of rows,
    so it can follow a step whose tokens the host has not read yet, and a CUDA graph can replay it. Padded rows of a
    graph use one extra row and the scratch page.
    """

    def __init__(
        self,
        model: Model,
        info: ModelInfo,
        config: EngineConfig,
        *,
        tokens_in_vocab: int | None = None,
    ) -> None:
        """Allocate the cache, `config.pages` pages, on the model's device; `tokens_in_vocab` as in `BatchingEngine`."""
        device, shape = model.device, model.shape
        self.attention, self.attention_reason = attention.choose(
            config.attention, device, shape.head_dim, shape.dtype_bytes
        )
        fused = self.attention == "paged_kernel"
        cache = shape.layers, config.pages, config.page_size, shape.kv_heads, shape.head_dim
        self._pages = KVPages(*cache, model.dtype, device, kernels=fused)
        self._device = device
        self._cuda = device.type == "cuda"
        # A product whose parts are added up in bfloat16 depends on how many parts there are, and so on the batch.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self._forward = model.forward
        self._page_size = config.page_size
        self._padding = rows = config.rows
        self._width = -(-config.max_model_len // config.page_size)
        self._tokens = tokens_in_vocab or info.vocab_size
        # ATTENTION=reference turns off the kernels of the sampler too.
        kernels = False if config.attention == "reference" else None
        self._sampler = Sampler(rows + 1, info.vocab_size, self._tokens, device, kernels=kernels)
        self._last = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        self._lengths = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        self._tables = torch.zeros(rows + 1, self._width, dtype=torch.int32, device=device)
        self._starts = torch.arange(rows + 2, dtype=torch.int32, device=device)
        # A step lengthens each row by one token, but not the padding row.
        self._one = torch.ones(rows + 1, dtype=torch.int64, device=device)
        self._one[self._padding] = 0
        self._rows = torch.full((rows,), self._padding, dtype=torch.int64, device=device)
        #: for each of `_rows`: 0 for the last drawn token of its row, n for the n-th guess after it; and the guesses
        self._ahead = torch.zeros(rows, dtype=torch.int64, device=device)
        self._guesses = torch.zeros(rows, dtype=torch.int64, device=device)
        self._speculates = config.speculative_tokens > 0
        self._guessing = False
        #: what the device has: the rows in `_rows`, and for each row the number of pages in `_tables`
        self._decoding: list[int] = []
        self._known = [0] * (rows + 1)
        # A graph replays only what the device decides; plain attention reads lengths on the host.
        capturable = fused and self._sampler.capturable
        self._buckets = [*config.graph_buckets] if capturable else []
        #: number of rows -> the graph, and the ids and logits that it writes
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._graph_memory = torch.cuda.graph_pool_handle() if self._buckets else None

    @property
    def captured(self) -> tuple[int, ...]:
        """Rows of the decode graphs that are ready."""
        return tuple(self._graphs)

    def assign(self, sequence: Sequence) -> None:
        """Set up the row of a sequence before its first chunk; raises torch's error for values it cannot store."""
        self._known[sequence.row] = 0
        prompt, completion = sequence.tokens[: sequence.prompt_len], sequence.tokens[sequence.prompt_len :]
        self._sampler.assign(sequence.row, sequence.sampling, prompt, completion)

    def release(self, row: int) -> None:
        self._sampler.release(row)

    def launch(self, step: Step[S]) -> Draws[S]:
        """Start a step. On a GPU this returns before the step is done, and never waits for the device."""
        self._update_tables(step)
        self._update_rows(step)
        drawing = step.drawing
        bucket = min((size for size in self._graphs if size >= len(drawing)), default=None)
        if step.chunks:
            ids, logits = self._mixed(step)
        elif bucket is None:
            ids, logits = self._decode(len(drawing), step.contexts)
        else:
            graph, ids, logits = self._graphs[bucket]
            graph.replay()
        return Draws(drawing, ids[: len(drawing)], logits, self._tokens)

    def correct(self, sequences: list[S]) -> None:
        """Write the last token and the length of rows whose guesses are settled; their step stored any of its draws."""
        rows, last, lengths = self._upload(
            [sequence.row for sequence in sequences],
            [sequence.tokens[-1] for sequence in sequences],
            [sequence.computed for sequence in sequences],
        )
        self._last.index_copy_(0, rows, last)
        self._lengths.index_copy_(0, rows, lengths)

    def capture_next(self, at_most: int) -> bool:
        """Capture the next decode graph, the smallest first; False where none of at most `at_most` rows is left.

        Only while no sequence runs. After a capture that fails, for example for lack of memory, no other is tried:
        larger steps run without a graph.
        """
        if not self._buckets or self._buckets[0] > at_most:
            return False
        rows = self._buckets.pop(0)
        try:
            self._update_rows(Step())
            self._decode(rows)  # compiles kernels and lets libraries allocate, which is not allowed in a capture
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._graph_memory, capture_error_mode="thread_local"):
                ids, logits = self._decode(rows)
        except Exception as error:
            log.warn(f"no CUDA graph for {rows} or more rows, steps run without: {type(error).__name__}")
            self._buckets.clear()
            return False
        self._graphs[rows] = graph, ids, logits
        return True

    def free(self) -> None:
        """Give torch's cached but unused memory back to the device."""
        if self._cuda:
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Free the KV cache and the graphs; idempotent."""
        self._graphs.clear()
        self._pages.k.clear()
        self._pages.v.clear()
        self.free()

    def _decode(self, count: int, contexts_host: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """Draw the next token of the first `count` of `_rows`; plain attention needs their contexts on the host."""
        rows = self._rows[:count]
        ids, positions = self._last.index_select(0, rows), self._lengths.index_select(0, rows)
        if self._speculates:
            ahead = self._ahead[:count]
            ids, positions = torch.where(ahead > 0, self._guesses[:count], ids), positions + ahead
        contexts = positions + self._one.index_select(0, rows)
        layout = Layout(
            slots=self._slots(rows, positions),
            block_tables=self._tables_of(rows, contexts_host),
            context_lens=contexts.int(),
            query_starts=self._starts[: count + 1],
            query_lens=[1] * count,
            context_lens_host=contexts_host or [],
            decode_rows=count,
        )
        logits = self._forward(ids, positions, None, layout, self._pages)
        self._lengths.index_copy_(0, rows, contexts)
        return self._draw(logits, rows, contexts)

    def _mixed(self, step: Step[S]) -> tuple[Tensor, Tensor]:
        """Compute decode rows, then chunks; draws one token for each row that draws."""
        count = len(step.decode)
        chunks = step.chunks
        sizes = [chunk.end - chunk.start for chunk in chunks]
        contexts_host = [sequence.computed for sequence in step.sequences]
        starts = [*accumulate(sizes, initial=count)]
        # A decode row draws from its only token; a chunk from its last token, if the prompt ends there.
        drawing = [*range(count), *(count + i for i, chunk in enumerate(chunks) if chunk.draws)]
        keep = [*range(count), *(end - 1 for chunk, end in zip(chunks, starts[1:], strict=True) if chunk.draws)]
        ids, positions, token_rows, rows, contexts, query_starts, drawn, kept = self._upload(
            [*chain.from_iterable(chunk.sequence.tokens[chunk.start : chunk.end] for chunk in chunks)],
            [*chain.from_iterable(range(chunk.start, chunk.end) for chunk in chunks)],
            [*chain.from_iterable([chunk.sequence.row] * size for chunk, size in zip(chunks, sizes, strict=True))],
            [chunk.sequence.row for chunk in chunks],
            [chunk.end for chunk in chunks],
            starts[1:],
            drawing,
            keep,
        )
        decode = self._rows[:count]
        lengths = self._lengths[decode]
        rows = torch.cat((decode, rows))
        contexts = torch.cat((lengths + 1, contexts))
        positions = torch.cat((lengths, positions))
        layout = Layout(
            slots=self._slots(torch.cat((decode, token_rows)), positions),
            block_tables=self._tables_of(rows, contexts_host),
            context_lens=contexts.int(),
            query_starts=torch.cat((self._starts[: count + 1], query_starts.int())),
            query_lens=[1] * count + sizes,
            context_lens_host=contexts_host,
            decode_rows=count,
        )
        ids = torch.cat((self._last[decode], ids))
        logits = self._forward(ids, positions, kept, layout, self._pages)
        self._lengths.index_copy_(0, rows, contexts)
        return self._draw(logits, rows[drawn], contexts[drawn])

    def _draw(self, logits: Tensor, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the tokens for `positions`; each becomes the last token of its row. Returns ids and logits."""
        if not len(rows):  # no chunk of the step ends its prompt, and kernels cannot run on 0 rows
            return rows, logits
        ids = self._sampler.sample(logits, rows, positions)
        self._last.index_copy_(0, rows, ids)
        return ids, logits

    def _slots(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Flat cache slots of these positions of these rows."""
        pages = self._tables[rows, positions // self._page_size]
        return torch.add(positions % self._page_size, pages, alpha=self._page_size)

    def _tables_of(self, rows: Tensor, contexts_host: list[int] | None) -> Tensor:
        """Block tables [rows, pages], as narrow as the longest context allows where the host knows it."""
        width = self._width if contexts_host is None else -(-max(contexts_host) // self._page_size)
        return self._tables[:, :width].index_select(0, rows)

    def _update_tables(self, step: Step[S]) -> None:
        """Upload the pages that sequences got since the last step."""
        cells: list[int] = []
        pages: list[int] = []
        for sequence in chain(step.admitted, step.grown):
            row, table = sequence.row, sequence.table.pages
            known, self._known[row] = self._known[row], len(table)
            cells.extend(range(row * self._width + known, row * self._width + len(table)))
            pages.extend(table[known:])
        if cells:
            at, new = self._upload(cells, pages)
            self._tables.view(-1)[at] = new.int()

    def _update_rows(self, step: Step[S]) -> None:
        """Upload the list of decoding rows where it changed, and the guesses."""
        rows = [sequence.row for sequence in step.decode]
        if self._guessing:
            self._ahead.zero_()
        self._guessing = step.guesses > 0
        if self._guessing:
            fed = [(s.row, ahead, token) for s in step.decode for ahead, token in enumerate((0, *s.guesses))]
            rows = [row for row, _, _ in fed]
            ahead, guesses = self._upload([ahead for _, ahead, _ in fed], [token for _, _, token in fed])
            self._ahead[: len(fed)] = ahead
            self._guesses[: len(fed)] = guesses
        if rows != self._decoding:
            (new,) = self._upload(rows + [self._padding] * (len(self._rows) - len(rows)))
            self._rows.copy_(new)
            self._decoding = rows  # only now, because the upload may run out of memory

    def _upload(self, *columns: list[int]) -> tuple[Tensor, ...]:
        """All columns as int64 tensors on the device, in one copy from pinned memory."""
        host = torch.tensor([*chain.from_iterable(columns)], dtype=torch.int64, pin_memory=self._cuda)
        device = host.to(self._device, non_blocking=True)
        return torch.split(device, [len(column) for column in columns])
