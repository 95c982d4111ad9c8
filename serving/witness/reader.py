"""The records of one folder, for the reader process: whatever engine wrote them, and whether it still lives or not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serving.witness.index import Index
from serving.witness.pages import read_page, sizes
from serving.witness.segments import SUFFIX
from serving.witness.types import FileSize, Page, Witness

FOLLOW_S = 0.2


class Folder:
    """Records of all files in `path`, which need not exist yet. A record is found as soon as its line is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index = Index(path)

    async def follow(self) -> None:
        """Reads along for ever, so that no question has much to catch up with."""
        while True:
            self._index.refresh()
            await asyncio.sleep(FOLLOW_S)

    async def find(self, attempt_id: str) -> Witness | None:
        """The last record of an attempt. Attempts under way are unknown here: engines write only what has ended."""
        self._index.refresh()
        found = self._index.find(attempt_id)
        if found is None and self._index.may_be_older(attempt_id):
            found = await asyncio.to_thread(self._index.find_old, attempt_id)
        return found

    def files(self) -> list[FileSize]:
        """All record files, oldest first."""
        return sizes(self._path)

    def page(self, file: str, after: int, limit: int) -> Page | None:
        """A page of a file of this folder, and of no other file."""
        if Path(file).name != file or not file.endswith(SUFFIX):
            return None
        try:
            return read_page(self._path / file, after, limit)
        except FileNotFoundError:
            return None
