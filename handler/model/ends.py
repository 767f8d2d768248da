"""The tokens that end an answer, and the files of the checkpoint that say so. Knows no request."""

from collections.abc import Mapping

from handler import log
from handler.engine.protocol import EndSource, EndToken
from handler.errors import StartError
from handler.model.config import GenerationConfig, ModelConfig
from handler.model.template import Template

#: end tokens of a checkpoint, at most; those that exist have three at most
MOST = 64
#: characters of a token that are quoted, at most
QUOTED = 40


def read(template: Template, generation: GenerationConfig, config: ModelConfig, name: str) -> tuple[EndToken, ...]:
    """The token that ends a turn in the chat template, and those of both configurations; `name` is the model's.

    A file that names a token outside the vocabulary, which no model draws, gets a warning.

    Raises:
        StartError: nothing ends an answer.
    """
    said: Mapping[EndSource, tuple[int, ...]] = {
        "chat_template": () if template.end_id is None else (template.end_id,),
        "generation_config": _ids(generation.eos_token_id),
        "config": _ids(config.eos_token_id),
    }
    sources: dict[int, tuple[EndSource, ...]] = {}
    for source, ids in said.items():
        for id_ in dict.fromkeys(ids):
            if 0 <= id_ < config.vocab_size:
                sources[id_] = (*sources.get(id_, ()), source)
            else:
                log.warn(f"{name}: {source}.json: eos_token_id {id_} is outside [0, {config.vocab_size}), and left out")
    if len(sources) > MOST:
        raise StartError(f"{name}: eos_token_id names {len(sources)} tokens, and {MOST} is the most; correct it")
    if not sources:
        raise StartError(
            f"{name}: no token ends an answer: the chat template writes no control token after the assistant's turn, "
            "and generation_config.json and config.json name none; set eos_token_id in generation_config.json"
        )
    if template.end_id is None:
        log.warn(
            f"{name}: the chat template writes no control token after the assistant's turn: answers end at the "
            "eos_token_id of generation_config.json and config.json alone"
        )
    return tuple(EndToken(id_, template.token(id_)[:QUOTED], found) for id_, found in sources.items())


def _ids(eos: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return () if eos is None else eos if isinstance(eos, tuple) else (eos,)
