"""The recipe that trained the embedded demo model, whose weights are in handler/model/demo: `python -m demo OUT_DIR`.

Read in this order: `recipe` (the steps), `words` and `text` (the training text), `tokenizer`, `training`, `evaluation`,
`card`. It imports neither the worker nor the builder, and they do not import it.
"""
