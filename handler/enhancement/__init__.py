"""Prompt rewriting, a client of the core: packs say what to ask and what to expect, the engine answers, this checks.

Read in this order: `pack` (the operator's data), `brief` (a request and a pack's entry become one task), `rewrite` (the
flow), then what it uses: `encoder` and `budget`, `spans` and `clauses`, `checks`, `cache`.
"""
