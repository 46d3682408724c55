"""ROS 1 bags in memory that does not grow with them: the index of one chunk at a time, in place of all messages'."""

from __future__ import annotations

import heapq
import os
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator
from typing import Any

from rosbags.rosbag1 import Reader
from rosbags.rosbag1.reader import ChunkInfo, IndexData

NO_MESSAGE = -1
"""Offset of an entry that holds a chunk's place in time until the chunk is read."""


class ChunkReader(Reader):
    """The library's reader, which parses all records; only when it reads the index of a chunk is otherwise."""

    def read_index_data(self, pos: int, indexes: dict[int, list[IndexData]]) -> None:
        """Skip an index while the bag is opened."""
        super().read_index_data(pos, defaultdict(list))

    def messages(
        self, connections: Collection[Any] = (), start: int | None = None, stop: int | None = None
    ) -> Generator[tuple[Any, int, bytes], None, None]:
        """Yield connection, time of reception, ns, and data of the messages, in the order of time.

        Raises:
            ReaderError: See the library.
        """
        wanted = list(connections or self.connections)
        if not wanted:
            return
        index: Any = self._in_time({connection.id for connection in wanted})
        self.indexes = {connection.id: [] for connection in wanted} | {wanted[0].id: index}
        yield from super().messages(wanted, start, stop)

    def _in_time(self, wanted: set[int]) -> Iterator[IndexData]:
        """Yield where messages are, in the order of time; chunks may overlap."""
        chunks = [info for info in self.chunk_infos if not wanted.isdisjoint(info.connection_counts)]
        for entry in heapq.merge(*(self._entries(info, wanted) for info in sorted(chunks, key=lambda c: c.start_time))):
            if entry.offset != NO_MESSAGE:
                yield entry

    def _entries(self, info: ChunkInfo, wanted: set[int]) -> Iterator[IndexData]:
        yield IndexData(info.start_time, info.pos, NO_MESSAGE)
        assert self.bio
        chunk = self.chunks[info.pos]
        self.bio.seek(chunk.datapos + chunk.datasize, os.SEEK_SET)
        indexes: dict[int, list[IndexData]] = defaultdict(list)
        for _ in info.connection_counts:
            super().read_index_data(info.pos, indexes)
        yield from sorted(entry for number in wanted for entry in indexes[number])
