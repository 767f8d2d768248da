"""Prompt rewriting by packs, a client of the engine.

Read in this order: `pack` and `packs` (the operator's data), `brief` (a request and a pack's entry as one value),
`rewrite` (the flow), `draft` (a prompt from an answer), `judge` (the result with its measures). They use `begun`,
`encoder`, `budget`, `clean` (with `unwrap`), `verdict` (with `talk`, `wrapping`, `echo`, `loops` and `subject`),
`repair`, `checks`, `score` and `cache`, and, where the model judges its own answers, `likelihood` with `contexts` and
`opinion`; these use `syntax`, `spans`, `clauses`, `content`, `speech`, `vocabulary` and
`scripts`.
"""
