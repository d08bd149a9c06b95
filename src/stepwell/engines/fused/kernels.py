"""Kernels: written from a program, compiled once a machine, kept in the user's cache folder.

Numba compiles the source to LLVM's language; the machine code made from that is kept beside the source. A later
process loads the machine code alone, in some milliseconds, without importing Numba.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from stepwell.codecs import Codec, codec
from stepwell.engines.fused import numba_writer
from stepwell.engines.fused.arrays import arrays, computed_in, draws
from stepwell.engines.fused.cache import cache_folder, kernel_folder, write_whole
from stepwell.engines.fused.program import Program
from stepwell.engines.fused.source import HostScalars, host_function

# What makes machine code of a source: this file, and what the source imports.
_HERE, _CODECS = Path(__file__).parent, Path(codec.__file__).parent
_MAKING = (Path(__file__), _HERE / "memory.py", _HERE / "block_memory.py", _CODECS / "blocks.py", _CODECS / "noise.py")
_OF_THE_RUNTIME = re.compile(r"^declare (\w+ @(?:numba|NRT)_\w+\([^)]*\)).*$", re.MULTILINE)
# What calls a kernel: void run(int64 *frame). ctypes lets other Python threads go on meanwhile.
RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Kernel:
    """A program compiled for the codecs of its numbers.

    Attributes:
        arrays: what the rows of the table of addresses are.
        draws: it needs keys of random bits.
    """

    def __init__(self, program: Program, codecs: Mapping[str, Codec]) -> None:
        self.program = program
        self.compute = computed_in(codecs)
        self.source = numba_writer.write(program, codecs)
        self.arrays = arrays(program, codecs)
        self.draws = any(draws(phase, codecs) for phase in program.phases)
        self.scalars: HostScalars = host_function(program)
        self._engine, address = _machine_code(program.name, self.source)
        self.run = RUN(address)


def _machine_code(name: str, source: str) -> tuple[Any, int]:
    """The execution engine that holds the code, and the address of `run` in it."""
    making = "".join(path.read_text(encoding="utf-8") for path in _MAKING)
    machine = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    digest = hashlib.sha256("\0".join((source, making, machine, llvmlite.__version__)).encode()).hexdigest()[:16]
    path = kernel_folder(cache_folder()) / f"{name.replace('.', '_')}_{digest}.py"
    kept = path.with_suffix(".bin")
    code = _read(kept)
    if code is None:
        write_whole(path, source.encode())
        code = _compile(path)
        write_whole(kept, hashlib.sha256(code).digest() + code)
    symbol, _, binary = code.partition(b"\n")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    return engine, engine.get_function_address(symbol.decode())


def _compile(path: Path) -> bytes:
    """The name of the kernel's symbol, a newline, and its machine code. This is what needs Numba."""
    try:
        import numba
    except ImportError as error:
        raise RuntimeError(
            f"a kernel has to be compiled, and Numba cannot be imported ({error}); install one that fits this Python "
            "and this NumPy, or take engine='foreach'"
        ) from error

    specification = importlib.util.spec_from_file_location(f"stepwell_kernel_{path.stem}", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    signature = numba.types.void(numba.types.CPointer(numba.types.int64))
    function = numba.cfunc(signature, error_model="numpy")(module.run)
    code: bytes = _target_machine().emit_object(llvm.parse_assembly(_self_contained(function.inspect_llvm())))
    return str(function.native_name).encode() + b"\n" + code


def _self_contained(assembly: str) -> str:
    """The same, with bodies for the functions of Numba's runtime, which a process that loads the code does not have.

    They would tell Python of an exception, and a kernel raises none. But where one symbol is not found, none is: not
    the mathematical functions either, and a kernel that calls one of those would jump to address 0.
    """
    body = r"define weak \1 {\n  call void @llvm.trap()\n  unreachable\n}"
    return _OF_THE_RUNTIME.sub(body, assembly) + "\ndeclare void @llvm.trap()\n"


def _target_machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True, reloc="pic")


def _read(path: Path) -> bytes | None:
    """The code that was kept, or None where there is none or it is damaged."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    checksum, code = whole[:32], whole[32:]
    return code if hashlib.sha256(code).digest() == checksum else None
