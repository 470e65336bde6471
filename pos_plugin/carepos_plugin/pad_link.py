"""How a page is connected: a link that works once, and the secret that the page gets for it.

So the PIN pad, and the page on which sales are taken back. The link's code stands behind `#` and so
in no request's address and no log. The page keeps its secret in its browser; here only the secret's
digest is kept, in a file of its own (`pin-pad.paired`), so that it works again after a restart. A
new one takes the old one's place: a till has one of each.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from carepos import durable
from carepos.ids import RandomBytes
from carepos.keys import b64, digest
from carepos_plugin.problems import Problem

FILE: Final = "pin-pad.paired"
HEADER: Final = "X-CarePOS-Pin-Pad"
LINK_LIFE_S: Final = 600


class PadLink:
    """Who may be this till's pad, or another page with a `file` of its own. Safe to call from
    several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        monotonic: Callable[[], float],
        random_bytes: RandomBytes,
        file: str = FILE,
    ) -> None:
        self._path = folder / file
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._mutex = threading.Lock()
        self._link: tuple[str, float] | None = None
        self._paired: str | None = None
        if self._path.exists():
            self._paired = self._path.read_text("ascii", errors="replace").strip() or None

    @property
    def paired(self) -> bool:
        return self._paired is not None

    def new_link(self) -> str:
        """A code for the next pad: one use, within ten minutes; the code before is over."""
        with self._mutex:
            code = b64(self._random_bytes(16))
            self._link = (code, self._monotonic() + LINK_LIFE_S)
            return code

    def pair(self, code: str) -> str:
        """The secret of the pad that shows this code. Raises Problem link_gone."""
        with self._mutex:
            link = self._link
            if (
                link is None
                or self._monotonic() >= link[1]
                or not hmac.compare_digest(link[0].encode(), code.encode("utf-8", "replace"))
            ):
                raise Problem("link_gone")
            secret = b64(self._random_bytes(32))
            paired = digest(secret.encode())
            durable.write(self._path, f"{paired}\n".encode())
            # A disk that takes nothing uses no link up.
            self._link, self._paired = None, paired
            return secret

    def opens(self, secret: str) -> bool:
        """Whether this is the paired pad's secret."""
        paired = self._paired
        shown = digest(secret.encode("utf-8", "replace"))
        return paired is not None and hmac.compare_digest(
            paired.encode("utf-8", "replace"), shown.encode()
        )

    def forget(self) -> None:
        """No pad is connected any more, after a power cut neither. Raises OSError."""
        with self._mutex:
            self._link = self._paired = None
            self._path.unlink(missing_ok=True)
            durable.sync_folder(self._path.parent)
