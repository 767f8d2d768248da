"""Compiles what Triton would compile on a worker's first GPU, when the image is built: cold starts compile nothing.

The results go to TRITON_CACHE_DIR, where Triton looks before it compiles. Read in this order:

* `__main__`: `python -m handler.precompile DIRECTORY` compiles the kernels that serve a checkpoint.
* `cache`: how Triton is made to compile for a GPU that is not there, and how a start reports what it had to compile.
* `launcher`: `python -m handler.precompile.launcher` compiles the C module that launches kernels. It imports nothing of
  this project, so that its layer of the image depends on few files.

Decisions 8 and 10 in docs/decisions give the reasons.
"""
