"""Tensors in a file of the safetensors format, written and read as a stream, each with a checksum.

The format (github.com/huggingface/safetensors, "Format") is 8 bytes with the length of a header, the header, which is
JSON that says of each tensor its dtype, its shape and where its bytes lie, and the bytes. The safetensors package opens
these files, and this module opens that package's; it is not used because it reads a tensor into new memory only and
writes from the host's memory only. Here a tensor is read into the memory that it shall stand in, and a tensor of
another device passes through the host in pieces, so that neither way holds a second copy.
"""

from __future__ import annotations

import json
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from stepwell.checkpoint.errors import CheckpointError, DamagedError

PIECE = 4 << 20  # bytes that are held at once beside the tensors themselves, by each of a few threads
GREATEST_HEADER = 100_000_000  # the format's own limit

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PAIRS = "complex128"  # in a file's metadata: the tensors whose last dimension holds pairs of a complex number


@dataclass(frozen=True)
class FileRecord:
    """What is kept of a file beside it, so that damage shows: its size, and CRC-32s of its header and its tensors."""

    size: int
    header: int
    tensors: Mapping[str, int]

    def to_data(self) -> dict[str, Any]:
        return {"size": self.size, "header": self.header, "tensors": dict(self.tensors)}

    @classmethod
    def from_data(cls, data: Any) -> FileRecord:
        """What `to_data` gave. Raises CheckpointError where it gave no such thing."""
        if (
            isinstance(data, dict)
            and data.keys() == {"size", "header", "tensors"}
            and isinstance(data["tensors"], dict)
            and all(type(number) is int for number in (data["size"], data["header"], *data["tensors"].values()))
        ):
            return cls(**data)
        raise DamagedError("its list of files is damaged")


@dataclass(frozen=True)
class Entry:
    """One tensor in a file: its bytes are `size` from `start`, row by row."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


def check_dtype(tensor: Tensor, name: str) -> None:
    """Raise CheckpointError where a tensor is of a kind that the files do not hold."""
    if is_lazy(tensor):
        raise CheckpointError(f"{name} has no shape yet: run one forward pass through its lazy module first")
    # A subclass that takes over torch's operators, as DTensor does, has no numbers of its own in memory.
    if tensor.layout is not torch.strided or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        sparse = tensor.layout is not torch.strided
        kind = str(tensor.layout).removeprefix("torch.") if sparse else type(tensor).__name__
        raise CheckpointError(
            f"{name} is a {kind}, and a checkpoint holds whole, dense ones; torch.distributed.checkpoint takes shards"
        )
    if tensor.dtype not in _NAMES and tensor.dtype != torch.complex128:
        raise CheckpointError(f"{name} has dtype {tensor.dtype}, which the safetensors format does not have")
    if tensor.device.type == "meta":
        raise CheckpointError(f"{name} is on the meta device and has no numbers; materialise it with to_empty() first")


def write(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write the tensors into a new file, and wait until the disk has it.

    complex128, which the format does not have, is written as pairs of float64, and the file's metadata say where.

    Raises:
        OSError: the disk is full, or will not be written.
    """
    # Widest first, so that every tensor lies at a multiple of its element's size.
    ordered = sorted(((name, _storable(t)) for name, t in tensors.items()), key=lambda item: -item[1].element_size())
    pairs = [name for name, tensor in tensors.items() if tensor.dtype == torch.complex128]
    described: dict[str, Any] = {"__metadata__": {"format": "pt", **({_PAIRS: json.dumps(pairs)} if pairs else {})}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        described[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace")
    header += b" " * (-len(header) % 8)
    header = len(header).to_bytes(8, "little") + header
    sums: dict[str, int] = {}
    with path.open("xb") as file, ThreadPoolExecutor(1) as beside:
        file.write(header)
        for name, tensor in ordered:
            sums[name] = _stream(tensor, file, beside)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(len(header) + end, zlib.crc32(header), sums)


def _storable(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return torch.view_as_real(tensor) if tensor.dtype == torch.complex128 else tensor


def _stream(tensor: Tensor, file: BinaryIO, beside: Executor) -> int:
    """Write a tensor's bytes, and give their checksum, which another thread works out meanwhile."""
    checksum = 0
    for piece in _pieces(tensor):
        if len(piece) < 1 << 16:
            checksum = zlib.crc32(piece, checksum)
            file.write(piece)
        else:
            pending = beside.submit(zlib.crc32, piece, checksum)
            file.write(piece)
            checksum = pending.result()
    return checksum


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """The tensor's bytes, row by row, at most about `PIECE` at once beside its own memory."""
    if tensor.device.type == "cpu" and tensor.is_contiguous():
        whole = bytes_of(tensor)
        for start in range(0, len(whole), PIECE):
            yield whole[start : start + PIECE]
        return
    for rows in _rows(tensor):
        yield bytes_of(rows.to("cpu").contiguous())


def _rows(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor in blocks of rows of at most about `PIECE` bytes: views."""
    if not tensor.numel():
        return
    if not tensor.ndim:
        yield tensor
        return
    row = tensor.numel() // len(tensor) * tensor.element_size()
    if row > PIECE and tensor.ndim > 1:
        for one in tensor:
            yield from _rows(one)
        return
    count = max(1, PIECE // row)
    for first in range(0, len(tensor), count):
        yield tensor[first : first + count]


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    if not tensor.numel():
        return memoryview(b"")
    # One element may have any stride and counts as contiguous.
    return tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data


class TensorFile:
    """A file that is open for reading, its header known to be whole. Other threads may read from it too.

    It stays readable when its name is gone: whoever reads a checkpoint is not disturbed by one who deletes it. A file
    of another package has no record, and is believed.

    Raises:
        DamagedError: the file is missing, damaged, or not what the record says.
    """

    def __init__(self, path: Path, record: FileRecord | None = None) -> None:
        self.path = path
        self.record = record
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise DamagedError(f"{path} cannot be read: {error.strerror}") from error
        self._lock = threading.Lock()
        try:
            self.entries = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Read no more from it."""
        self._file.close()

    def read(self, name: str, into: Tensor | None = None) -> Tensor:
        """A tensor, checked: a new one on the CPU, or `into`, whose numbers it overwrites before the check is done.

        `into` has the tensor's shape; where its dtype is another, numbers are converted.
        """
        entry = self.entries[name]
        target = torch.empty(entry.shape, dtype=entry.dtype, device="cpu") if into is None else into
        if target.device.type == "cpu" and target.dtype == entry.dtype and target.is_contiguous():
            checksum = self._fill(entry.start, bytes_of(target))
        else:
            checksum = self._convert(entry, target)
        self._check(name, checksum)
        return target

    def verify(self, name: str) -> None:
        """Read a tensor's bytes and forget them. Raises CheckpointError where they are not what was written."""
        entry, checksum = self.entries[name], 0
        buffer = memoryview(bytearray(min(entry.size, 1 << 20)))
        for start in range(entry.start, entry.start + entry.size, len(buffer) or 1):
            checksum = self._fill(start, buffer[: entry.start + entry.size - start], checksum)
        self._check(name, checksum)

    def _convert(self, entry: Entry, target: Tensor) -> int:
        """Fill a tensor of another dtype, layout or device, block by block."""
        checksum, start = 0, entry.start
        held = torch.empty(0, dtype=entry.dtype, device="cpu")
        for rows in _rows(target):
            if held.numel() < rows.numel():
                held = torch.empty(rows.numel(), dtype=entry.dtype, device="cpu")
            block = held[: rows.numel()]
            memory = bytes_of(block)
            checksum = self._fill(start, memory, checksum)
            start += len(memory)
            rows.copy_(block.view(rows.shape))
        return checksum

    def _fill(self, start: int, memory: memoryview, checksum: int = 0) -> int:
        """Fill memory with the bytes from `start`, and go on with their checksum while they are in the cache."""
        done = 0
        while done < len(memory):
            with self._lock:
                self._file.seek(start + done)
                count = self._file.readinto(memory[done : done + (1 << 20)])
            if not count:
                raise DamagedError(f"{self.path} has been cut off while it was read")
            checksum = zlib.crc32(memory[done : done + count], checksum)
            done += count
        return checksum

    def _check(self, name: str, checksum: int) -> None:
        if self.record is not None and checksum != self.record.tensors[name]:
            raise DamagedError(f"{self.path} is damaged: {name!r} does not have the checksum that it was saved with")

    def _read_header(self) -> dict[str, Entry]:
        size, record = os.fstat(self._file.fileno()).st_size, self.record
        if record is not None and size != record.size:
            how = "cut off" if size < record.size else "too long"
            raise DamagedError(f"{self.path} is {how}: it has {size:,} bytes, and was saved with {record.size:,}")
        start = self._file.read(8) or b""
        length = int.from_bytes(start, "little")
        header = (self._file.read(length) or b"") if length <= min(size, GREATEST_HEADER) else b""
        if record is not None and zlib.crc32(start + header) != record.header:
            raise DamagedError(f"{self.path} is damaged: its header does not have the checksum that it was saved with")
        entries = _entries(header, self.path, size)
        if record is not None and entries.keys() != record.tensors.keys():
            raise DamagedError(f"{self.path} holds other tensors than the checkpoint's list of files says")
        return entries


def _entries(header: bytes, path: Path, size: int) -> dict[str, Entry]:
    """The tensors that a header describes, which cover the bytes after it without gap or overlap."""
    try:
        described = json.loads(header)
        pairs = json.loads(described.pop("__metadata__", {}).get(_PAIRS, "[]"))
        found = {name: _entry(each, 8 + len(header), name in pairs) for name, each in described.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is no safetensors file: its header cannot be read") from error
    end = 8 + len(header)
    for entry in sorted(found.values(), key=lambda entry: (entry.start, entry.size)):
        if entry.start != end or entry.size != math.prod(entry.shape) * entry.dtype.itemsize:
            raise DamagedError(f"{path} is no safetensors file: its tensors do not lie one after the other")
        end += entry.size
    if end != size:
        raise DamagedError(f"{path} is {'cut off' if size < end else 'too long'}: {size:,} bytes, not {end:,}")
    return found


def _entry(described: Mapping[str, Any], offset: int, of_pairs: bool) -> Entry:
    start, end = described["data_offsets"]
    shape, dtype = tuple(described["shape"]), _DTYPES[described["dtype"]]
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError("sizes are whole numbers")
    if of_pairs:
        if dtype != torch.float64 or shape[-1:] != (2,):
            raise ValueError("complex numbers are pairs of float64")
        shape, dtype = shape[:-1], torch.complex128
    return Entry(dtype, shape, offset + start, end - start)


def in_parallel(jobs: list[Callable[[], object]]) -> None:
    """Run the jobs on a few threads; raise the first error once all that had begun have ended."""
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(job) for job in jobs]
        try:
            for each in pending:
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
