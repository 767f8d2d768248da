"""The page table of the KV cache: which page holds which tokens, and which prompts may share it.

Pure: knows page numbers and token ids, no tensor and no request.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

#: no sequence gets page 0: padded rows of a CUDA graph write there
SCRATCH_PAGE = 0


@dataclass(slots=True, eq=False)
class BlockTable:
    """The pages of one sequence, in order of its tokens."""

    pages: list[int] = field(default_factory=list)
    #: sequences share pages only where their salts are equal; 64 bytes at most
    salt: bytes = b""
    #: pages at the front that are full and known to the prefix index; they are never written again
    published: int = 0
    #: fingerprint of each full page together with all pages before it, for the pages looked up so far
    chain: list[bytes] = field(default_factory=list)


class KVCache:
    """Hands out pages of `page_size` tokens and finds prefixes that were computed before.

    A page is in exactly one state: held by one or more tables; idle (held by none, kept because a prompt may share its
    prefix); or blank. Idle pages are free: when no page is blank, the one idle longest is reused.
    """

    def __init__(self, pages: int, page_size: int) -> None:
        """`pages` includes the scratch page, so one less is handed out."""
        self.page_size = page_size
        self.total = pages - 1
        self._blank = list(range(pages - 1, SCRATCH_PAGE, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * pages
        self._page_of: dict[bytes, int] = {}
        self._fingerprint_of: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Pages that tables could get now."""
        return len(self._blank) + len(self._idle)

    @property
    def cached(self) -> int:
        """Pages that a later prompt could share."""
        return len(self._page_of)

    def adopt(self, table: BlockTable, tokens: Sequence[int]) -> int:
        """Start an empty table with the pages of the longest known prefix of `tokens`.

        Returns how many tokens the pages hold. The last token is never among them, because its logits are needed.
        """
        for index in range((len(tokens) - 1) // self.page_size):
            page = self._page_of.get(self._fingerprint(table, tokens, index))
            if page is None:
                break
            self._idle.pop(page, None)
            self._holders[page] += 1
            table.pages.append(page)
        table.published = len(table.pages)
        return table.published * self.page_size

    def grow(self, table: BlockTable, length: int, *, spare: int = 0) -> bool:
        """Make room for `length` tokens; False without any change where fewer than `spare` pages would stay free."""
        missing = -(-length // self.page_size) - len(table.pages)
        if missing + spare > self.free:
            return False
        for _ in range(missing):
            table.pages.append(self._take())
        return True

    def publish(self, table: BlockTable, tokens: Sequence[int], length: int) -> None:
        """Let other prompts share the full pages of the first `length` tokens, whose keys and values are computed."""
        full = length // self.page_size
        for index in range(table.published, full):
            fingerprint = self._fingerprint(table, tokens, index)
            # Two sequences may compute the same prefix at the same time: the pages of the first are shared.
            if fingerprint not in self._page_of:
                self._page_of[fingerprint] = table.pages[index]
                self._fingerprint_of[table.pages[index]] = fingerprint
        table.published = max(table.published, full)

    def withdraw(self, table: BlockTable, length: int) -> None:
        """Undo `publish` for the pages after the first `length` tokens: the step that was to compute them failed."""
        full = length // self.page_size
        for page in table.pages[full:]:
            if fingerprint := self._fingerprint_of.pop(page, None):
                del self._page_of[fingerprint]
        table.published = min(table.published, full)

    def release(self, table: BlockTable) -> None:
        """Take all pages back. The last page of a prefix becomes idle first, so it is also evicted first."""
        for page in reversed(table.pages):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._fingerprint_of:
                self._idle[page] = None
            else:
                self._blank.append(page)
        table.pages.clear()
        table.published = 0

    def forget(self) -> None:
        """Share no page that was computed so far: a failed step may have left pages half written."""
        self._page_of.clear()
        self._fingerprint_of.clear()
        self._blank.extend(self._idle)
        self._idle.clear()

    def _take(self) -> int:
        if self._blank:
            page = self._blank.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._fingerprint_of.pop(page)]
        self._holders[page] = 1
        return page

    def _fingerprint(self, table: BlockTable, tokens: Sequence[int], index: int) -> bytes:
        """Of page `index`, all pages before it and the salt: 16 bytes of blake2b, so that no two prefixes collide."""
        chain = table.chain
        while len(chain) <= index:
            start = len(chain) * self.page_size
            ids = array("q", tokens[start : start + self.page_size]).tobytes()
            chain.append(blake2b(ids, key=chain[-1] if chain else table.salt, digest_size=16).digest())
        return chain[index]
