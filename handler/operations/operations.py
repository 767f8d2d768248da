"""Dispatch: a request goes to its operation. Knows no job and no SDK."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import assert_never

from handler.api.chat import ChatRequest
from handler.api.enhance import EnhanceRequest
from handler.api.generate import GenerateRequest
from handler.api.info import InfoRequest
from handler.api.reply import Reply
from handler.api.requests import Request
from handler.engine.fold import Piece
from handler.operations.chat import chat
from handler.operations.core import Core
from handler.operations.enhance import enhance
from handler.operations.generate import generate
from handler.operations.info import info


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations over one engine."""

    core: Core

    def run(self, request: Request) -> AsyncGenerator[Piece | Reply, None]:
        """Yield the text as it comes, then the whole reply. Closing the iterator cancels the request.

        Raises:
            WorkerError: the failure that the caller reads in place of a reply.
        """
        match request:
            case ChatRequest():
                return chat(self.core, request)
            case GenerateRequest():
                return generate(self.core, request)
            case EnhanceRequest():
                return enhance(self.core, request)
            case InfoRequest():
                return info(self.core, request)
            case _:
                assert_never(request)
