"""Runs one step on the device: batch tensors, forward, sampling, CUDA graphs.

Knows steps, rows, pages and tensors; no text, no stream and no clock.
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate, chain

import torch
from torch import Tensor

from handler import log
from handler.engine.protocol import ModelInfo
from handler.inference.config import EngineConfig
from handler.inference.draws import Draws, Scores
from handler.inference.graphs import Captured, Graphs
from handler.inference.kv_cache import SCRATCH_PAGE
from handler.inference.model import Model
from handler.inference.sampler import Sampler
from handler.inference.step import S, Sequence, Step
from handler.ops import attention
from handler.ops.pages import KVPages, Layout
from handler.ops.parts import Parts
from handler.ops.replay import replays_as_eager


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
        #: the implementation of each part; see `use`
        self.parts = attention.choose(config.attention, device, shape.head_dim, shape.dtype_bytes)
        model.reserve(config.max_model_len)
        cache = shape.layers, config.pages, config.page_size, shape.kv_heads, shape.head_dim
        self._pages = KVPages(*cache, model.dtype, device, parts=self.parts)
        self._device = device
        self._cuda = device.type == "cuda"
        # A product whose parts are added up in bfloat16 depends on how many parts there are, and so on the batch.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self._forward, self._head = model.forward, model.head
        self._rotates_by_prompt = shape.shared_prompt is not None
        self._page_size = config.page_size
        self._padding = rows = config.rows
        self._width = -(-config.max_model_len // config.page_size)
        self._tokens = tokens_in_vocab or info.vocab_size
        self._sampler = Sampler(rows + 1, info.vocab_size, self._tokens, device, kernels=self.parts.sampler)
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
        #: what a graph tells its draw: the position of each drawn token
        self._drawn = torch.zeros(rows, dtype=torch.int64, device=device)
        buckets = config.graph_buckets if self.parts.capturable else ()
        self._graphs = Graphs(buckets, info.vocab_size, model.dtype, device)
        #: why there are no graphs where a captured one was wrong
        self.graphs_reason: str | None = None

    @property
    def captured(self) -> tuple[int, ...]:
        """Rows of the decode graphs that are ready."""
        return self._graphs.rows

    def use(self, parts: Parts) -> None:
        """Run these parts from now on. Only before the first capture; a part whose kernels are off is not turned on."""
        self.parts = self._pages.parts = parts
        self._sampler.capturable = parts.sampler
        if not parts.capturable:
            self._graphs.clear()

    def assign(self, sequence: Sequence) -> None:
        """Set up the row of a sequence before its first chunk; raises torch's error for values it cannot store."""
        self._known[sequence.row] = 0
        if sequence.sampling is None:
            return
        prompt, completion = sequence.tokens[: sequence.prompt_len], sequence.tokens[sequence.prompt_len :]
        self._sampler.assign(sequence.row, sequence.sampling, prompt, completion)

    def release(self, row: int) -> None:
        self._sampler.release(row)

    def launch(self, step: Step[S]) -> Draws[S]:
        """Start a step. On a GPU this returns before the step is done, and never waits for the device."""
        self._update_tables(step)
        self._update_rows(step)
        drawing = step.drawing
        scores: Scores[S] | None = None
        if step.chunks:
            ids, logits, scores = self._mixed(step)
        elif graph := self._graphs.fitting(len(drawing)):
            ids, logits = graph.replay(full_search=self._sampler.needs_full_search)
        else:
            logits, positions = self._decode(len(drawing), self._forward, step.contexts)
            ids = self._draw(logits, self._rows[: len(drawing)], positions, full_search=self._sampler.needs_full_search)
        return Draws(drawing, ids[: len(drawing)], logits, self._tokens, scores)

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
        """Capture the next decode graph; False where none of at most `at_most` rows is left.

        Sequences may run: the steps that this takes compute only padding, and the next `launch` uploads its rows again.

        Raises:
            Exception: see `Graphs.capture_next`.
        """
        if not self._graphs.left(at_most):
            return False
        first = not self._graphs.rows
        self._graphs.capture_next(lambda: self._update_rows(Step()), self._forward_padding, self._draw_padding)
        if first and (graph := self._graphs.fitting(1)) and not self._replays(graph):
            log.warn("a replayed CUDA graph does not compute what its eager step does: steps run without graphs")
            self._graphs.clear()
            self.graphs_reason = "a replay differs from its eager step"
        return True

    def _replays(self, graph: Captured) -> bool:
        """True where the graph, replayed twice, writes the bits of the eager step that it was captured from."""
        logits = graph.logits

        def eager() -> list[Tensor]:
            self._lengths[self._padding] = 3  # so that padding has a context: tokens of the scratch page
            self._forward_padding(logits)
            return [logits, *(self._draw_padding(logits, full) for full in graph.draws)]

        def replay() -> list[Tensor]:
            self._lengths[self._padding] = 3
            graph.forward.replay()
            drawn = []
            for draw, ids in graph.draws.values():
                draw.replay()
                drawn.append(ids.clone())  # valid until the next replay
            return [logits, *drawn]

        scratch = [cache[SCRATCH_PAGE] for cache in (*self._pages.k, *self._pages.v)]
        return replays_as_eager(eager, replay, [self._last, self._lengths, self._drawn, logits, *scratch])

    def _forward_padding(self, out: Tensor) -> None:
        forward = partial(self._forward, out=out)
        _, positions = self._decode(len(out), forward)
        self._drawn[: len(out)].copy_(positions)

    def _draw_padding(self, logits: Tensor, full_search: bool) -> Tensor:
        count = len(logits)
        return self._draw(logits, self._rows[:count], self._drawn[:count], full_search=full_search)

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

    def _decode(
        self, count: int, forward: Callable[..., Tensor], contexts_host: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the last token of the first `count` of `_rows`; plain attention needs their contexts on the host.

        Returns logits and the position of the next token of each.
        """
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
        logits = forward(ids, positions, None, layout, self._pages)
        self._lengths.index_copy_(0, rows, contexts)
        return logits, contexts

    def _mixed(self, step: Step[S]) -> tuple[Tensor, Tensor, Scores[S] | None]:
        """Compute decode rows, then chunks; draws one token for each row that draws, and scores given texts."""
        count = len(step.decode)
        chunks = step.chunks
        sizes = [chunk.end - chunk.start for chunk in chunks]
        contexts_host = [sequence.computed for sequence in step.sequences]
        starts = [*accumulate(sizes, initial=count)]
        # A decode row draws from its only token; a chunk from its last token, if the prompt ends there.
        drawing = [*range(count), *(count + i for i, chunk in enumerate(chunks) if chunk.draws)]
        keep = [*range(count), *(end - 1 for chunk, end in zip(chunks, starts[1:], strict=True) if chunk.draws)]
        given = [(chunk.sequence.tokens, chunk.end, chunk.scores) for chunk in chunks]
        ids, positions, token_rows, rows, contexts, query_starts, drawn, kept, lens, scored, following = self._upload(
            [*chain.from_iterable(chunk.sequence.tokens[chunk.start : chunk.end] for chunk in chunks)],
            [*chain.from_iterable(range(chunk.start, chunk.end) for chunk in chunks)],
            [*chain.from_iterable([chunk.sequence.row] * size for chunk, size in zip(chunks, sizes, strict=True))],
            [chunk.sequence.row for chunk in chunks],
            [chunk.end for chunk in chunks],
            starts[1:],
            drawing,
            keep,
            [0] * count + [*chain.from_iterable([c.sequence.prompt_len] * (c.end - c.start) for c in chunks)]
            if self._rotates_by_prompt
            else [],
            [*chain.from_iterable(range(end - n, end) for (_, _, n), end in zip(given, starts[1:], strict=True))],
            [*chain.from_iterable(tokens[end - n + 1 : end + 1] for tokens, end, n in given)],
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
            prompt_lens=lens if self._rotates_by_prompt else None,
            scored=scored if len(scored) else None,
        )
        ids = torch.cat((self._last[decode], ids))
        logits = self._forward(ids, positions, kept, layout, self._pages)
        self._lengths.index_copy_(0, rows, contexts)
        drawn = self._draw(logits, rows[drawn], contexts[drawn], full_search=self._sampler.needs_full_search)
        if layout.hidden is None:
            return drawn, logits, None
        return drawn, logits, Scores(chunks, following, layout.hidden, self._head, self._tokens)

    def _draw(self, logits: Tensor, rows: Tensor, positions: Tensor, *, full_search: bool) -> Tensor:
        """Draw the tokens for `positions`; each becomes the last token of its row. Returns ids."""
        if not len(rows):  # no chunk of the step ends its prompt, and kernels cannot run on 0 rows
            return rows
        ids = self._sampler.sample(logits, rows, positions, full_search=full_search)
        self._last.index_copy_(0, rows, ids)
        return ids

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
