"""Prompt rewriting by packs, a client of the engine.

Read in this order: `pack` and `packs` (the operator's data), `brief` (a request and a pack's entry as one value),
`rewrite` (the flow), `draft` (a prompt from an answer), `verdict` (what is wrong with one that is none), `judge` (the
result with its measures). They use `begun`, `encoder`, `budget`, `clean`, `repair`, `checks`, `score` and `cache`;
these use `spans`, `clauses`, `vocabulary` and `scripts`.
"""
