"""Files of tensors: what is written is read, by the safetensors package too, and damage anywhere is seen."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stepwell.checkpoint import tensorfile
from stepwell.checkpoint.errors import CheckpointError, DamagedError
from stepwell.checkpoint.tensorfile import FileRecord, TensorFile, bytes_of, check_dtype, in_parallel, write

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.complex64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16),
    *(torch.uint8, torch.bool),
]


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and bytes_of(a.contiguous()) == bytes_of(b.contiguous())


def read_back(path: Path, record: FileRecord) -> dict[str, Tensor]:
    with TensorFile(path, record) as file:
        return {name: file.read(name) for name in file.entries}


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 0, 2), (4, 3, 2)], ids=str)
def test_what_is_written_is_read(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = (
        torch.view_as_complex(numbers(*shape, 2, dtype=torch.float64)).to(dtype)
        if dtype.is_complex
        else (numbers(*shape) * 9).abs().to(dtype)
    )
    record = write(tmp_path / "a", {"x": tensor, "odd": torch.ones(3, dtype=torch.uint8)})
    found = read_back(tmp_path / "a", record)
    assert list(found) == ["x", "odd"]
    assert same_bits(found["x"], tensor)


def test_the_safetensors_package_opens_them(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.torch")
    tensors = {
        "bytes": torch.arange(5, dtype=torch.uint8),
        **{f"{dtype}/ä": numbers(3, 2).to(dtype) for dtype in DTYPES if not dtype.is_complex},
        "scalar": torch.tensor(2.5),
        "empty": torch.ones(0, 3),
    }
    write(tmp_path / "a", tensors)
    theirs = package.load_file(tmp_path / "a")
    assert theirs.keys() == tensors.keys()
    assert all(same_bits(theirs[name], tensors[name]) for name in tensors)


def test_files_of_the_safetensors_package_are_read(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.torch")
    tensors = {f"{dtype}": numbers(3, 2).to(dtype) for dtype in DTYPES} | {"empty": torch.ones(0)}
    package.save_file(tensors, tmp_path / "a", metadata={"format": "pt", "note": "theirs"})
    with TensorFile(tmp_path / "a") as file:
        assert file.entries.keys() == tensors.keys()
        assert all(same_bits(file.read(name), tensors[name]) for name in tensors)


def test_pairs_of_a_complex_number_are_float64_to_others(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.torch")
    tensor = torch.view_as_complex(numbers(2, 3, 2, dtype=torch.float64))
    write(tmp_path / "a", {"x": tensor})
    assert same_bits(package.load_file(tmp_path / "a")["x"], torch.view_as_real(tensor))


def test_checksums_are_crc_32_of_the_rows(tmp_path: Path) -> None:
    tensor = numbers(3, 4)
    record = write(tmp_path / "a", {"x": tensor.t()})
    assert record.tensors == {"x": zlib.crc32(tensor.t().contiguous().numpy().tobytes())}
    assert record.size == (tmp_path / "a").stat().st_size


@pytest.mark.parametrize("piece", [1, 8, 40, 10_000])
def test_tensors_that_are_not_contiguous_pass_in_pieces(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorfile, "PIECE", piece)
    tensors = {
        "turned": numbers(5, 7).t(),
        "channels last": numbers(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "strided": numbers(40)[::3],
        "conjugate": torch.view_as_complex(numbers(6, 2)).conj(),
        "plain": numbers(300),
    }
    record = write(tmp_path / "a", tensors)
    found = read_back(tmp_path / "a", record)
    assert all(same_bits(found[name], tensors[name].resolve_conj()) for name in tensors)
    into = {name: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for name, t in tensors.items()}
    with TensorFile(tmp_path / "a", record) as file:
        for name, target in into.items():
            assert file.read(name, target) is target
    assert all(same_bits(into[name], found[name]) for name in found)


def test_numbers_are_converted_where_the_target_has_another_dtype(tmp_path: Path) -> None:
    tensor = numbers(50, 3)
    record = write(tmp_path / "a", {"x": tensor})
    with TensorFile(tmp_path / "a", record) as file:
        assert same_bits(file.read("x", torch.empty(50, 3, dtype=torch.bfloat16)), tensor.bfloat16())


@settings(deadline=None, max_examples=30)
@given(described=st.lists(st.tuples(st.sampled_from(DTYPES[:6]), st.lists(st.integers(0, 4), max_size=3)), max_size=5))
def test_any_list_of_tensors(
    described: list[tuple[torch.dtype, list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    tensors = {f"t{i}": numbers(*shape, seed=i).to(dtype) for i, (dtype, shape) in enumerate(described)}
    found = read_back(folder / "a", write(folder / "a", tensors))
    assert all(same_bits(found[name], tensor) for name, tensor in tensors.items())
    assert found.keys() == tensors.keys()


# Damage.


def test_every_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "a"
    record = write(path, {"x": numbers(7), "y": numbers(2, 3, dtype=torch.bfloat16)})
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
        with pytest.raises(DamagedError, match=str(path)):
            read_back(path, record)


@pytest.mark.parametrize("way", ["read", "verify"])
def test_the_damaged_tensor_is_named(way: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    record = write(path, {"x": numbers(7), "y": numbers(300_000)})
    whole = bytearray(path.read_bytes())
    whole[-5] ^= 4
    path.write_bytes(whole)
    with TensorFile(path, record) as file:
        getattr(file, way)("x")
        with pytest.raises(DamagedError, match=r"a is damaged: 'y' does not have the checksum that it was saved with$"):
            getattr(file, way)("y")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 40, 80, -1])
def test_a_file_that_is_cut_off_or_too_long(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    record = write(path, {"x": numbers(7)})
    whole = path.read_bytes()
    path.write_bytes(whole[:length] if length >= 0 else whole + b"\0")
    with pytest.raises(DamagedError, match="cut off" if 0 <= length < len(whole) else "too long"):
        TensorFile(path, record)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    record = write(path, {"x": numbers(700)})
    with TensorFile(path, record) as file:
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DamagedError, match="has been cut off while it was read"):
            file.read("x")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    record = write(tmp_path / "a", {"x": numbers(7)})
    with TensorFile(tmp_path / "a", record) as file:
        (tmp_path / "a").unlink()
        assert same_bits(file.read("x"), numbers(7))  # who reads it is not disturbed
    with pytest.raises(DamagedError, match="a cannot be read: No such file or directory"):
        TensorFile(tmp_path / "a", record)


def file_with(header: object, data: bytes, path: Path) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


X = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"", b""),
        (b"not json", b""),
        (b"[1]", b""),
        (b"\xff\xfe", b""),
        (b'{"x":' * 100_000, b""),
        ({"x": 3}, b""),
        ({"x": {**X, "dtype": "F33"}}, b"\0" * 8),
        ({"x": {**X, "shape": [3]}}, b"\0" * 8),
        ({"x": {**X, "shape": [-2]}}, b"\0" * 8),
        ({"x": {**X, "shape": [2.0]}}, b"\0" * 8),
        ({"x": {**X, "shape": None}}, b"\0" * 8),
        ({"x": {**X, "data_offsets": [0]}}, b"\0" * 8),
        ({"x": {**X, "data_offsets": [8, 0]}}, b"\0" * 8),
        ({"x": {**X, "data_offsets": [-8, 0]}}, b"\0" * 8),
        ({"x": X}, b"\0" * 7),
        ({"x": X}, b"\0" * 9),
        ({"x": X, "y": X}, b"\0" * 8),  # one on top of the other
        ({"x": {**X, "data_offsets": [4, 12]}}, b"\0" * 12),  # a gap
        ({"__metadata__": {"complex128": '["x"]'}, "x": X}, b"\0" * 8),
        ({"__metadata__": [], "x": X}, b"\0" * 8),
    ],
)
def test_headers_that_say_nonsense(header: object, data: bytes, tmp_path: Path) -> None:
    file_with(header, data, tmp_path / "a")
    with pytest.raises(DamagedError):
        TensorFile(tmp_path / "a")


def test_a_length_that_is_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(DamagedError):
        TensorFile(tmp_path / "a")


def test_a_file_of_other_tensors_than_recorded(tmp_path: Path) -> None:
    record = write(tmp_path / "a", {"x": numbers(7)})
    other = FileRecord(record.size, record.header, {"y": record.tensors["x"]})
    with pytest.raises(DamagedError, match="holds other tensors than the checkpoint's list of files says"):
        TensorFile(tmp_path / "a", other)


@pytest.mark.parametrize("data", [None, {}, {"size": 1, "header": 2}, {"size": 1.0, "header": 2, "tensors": {}}, []])
def test_records_that_are_none(data: object) -> None:
    with pytest.raises(ValueError, match="its list of files is damaged"):
        FileRecord.from_data(data)


# What is not taken.


def test_what_the_format_does_not_hold() -> None:
    with pytest.raises(CheckpointError, match=r"^w is a sparse_coo, and a checkpoint holds whole, dense ones; "):
        check_dtype(torch.ones(2, 2).to_sparse(), "w")
    with pytest.raises(CheckpointError, match=r"^w is on the meta device and has no numbers; materialise it with "):
        check_dtype(torch.ones(2, device="meta"), "w")
    with pytest.raises(CheckpointError, match=r"^w has dtype torch.bits8, which the safetensors format does not have$"):
        check_dtype(torch.empty(2, dtype=torch.bits8), "w")
    with pytest.raises(CheckpointError, match=r"^w has no shape yet: run one forward pass"):
        check_dtype(nn.LazyLinear(3).weight, "w")


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write(tmp_path / "a", {"x": numbers(7)})
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_the_first_error_of_parallel_jobs_is_raised() -> None:
    done: list[int] = []

    def fail() -> None:
        raise DamagedError("second")

    with pytest.raises(DamagedError, match="second"):
        in_parallel([lambda: done.append(1), fail, lambda: done.append(3)])
    assert 1 in done
