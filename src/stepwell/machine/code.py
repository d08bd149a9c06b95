"""Kernels: compiled once a machine, kept in the user's cache folder.

Numba compiles a source to LLVM's language; the machine code made from that is kept beside the source. A later process
loads the machine code alone, in some milliseconds, without importing Numba.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from stepwell.machine.cache import keep, kept, module_of

# What makes machine code of any source.
_HERE = Path(__file__).parent
_MAKING = (Path(__file__), _HERE / "memory.py")
# What Numba declares beside a kernel, to tell Python of an exception and to free what it has made.
_RUNTIME = r'@"?(?:NRT_|numba_|Py)\w+"?'
_FUNCTION = re.compile(rf"^declare (.*{_RUNTIME}\(.*)$", re.MULTILINE)
_VARIABLE = re.compile(rf"^({_RUNTIME} = )external (.*global [^,\n]+)", re.MULTILINE)
# What calls a kernel: void run(int64 *frame). ctypes lets other Python threads go on meanwhile.
_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Code:
    """The `run` of a source, compiled for this machine.

    Attributes:
        run: to be called with the address of the frame that the source says it works on, by as many threads as are to
            share the work (`stepwell.machine.threads`).
    """

    def __init__(self, name: str, source: str, imported: Sequence[Path]) -> None:
        """`imported` are the files, besides `stepwell.machine.memory`, whose code the source takes in. Raises
        RuntimeError where the code is not kept and Numba cannot make it."""
        self._engine, address = _machine_code(name, source, imported)
        self.run = _RUN(address)


def lanes() -> int:
    """Words of 4 bytes in a vector register of this processor; 0 where it has none that add a product at once."""
    has = llvm.get_host_cpu_features().get
    if has("avx512f", False):
        return 16
    return 8 if has("avx2", False) and has("fma", False) else 0


def multiplies_pairs() -> bool:
    """Whether this processor has an instruction for dot products of pairs of bfloat16 in registers of 16 words, and
    LLVM the name for it that is used here (up to 16 it took whole numbers for the pairs)."""
    return bool(llvm.get_host_cpu_features().get("avx512bf16", False)) and llvm.llvm_version_info[0] >= 17


def _machine_code(name: str, source: str, imported: Sequence[Path]) -> tuple[Any, int]:
    """The execution engine that holds the code, and the address of `run` in it."""
    making = "".join(path.read_text(encoding="utf-8") for path in (*_MAKING, *imported))
    machine = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    digest = hashlib.sha256("\0".join((source, making, machine, llvmlite.__version__)).encode()).hexdigest()[:16]
    place = f"{name.replace('.', '_')}_{digest}"
    code = _undamaged(kept(f"{place}.bin"))
    if code is None or _lacking(code):
        keep(f"{place}.py", source.encode())
        code = _compile(f"{place}.py", source)
        keep(f"{place}.bin", hashlib.sha256(code).digest() + code)
    if lacking := _lacking(code):
        raise RuntimeError(
            f"the kernel of {name} calls {', '.join(lacking)}, which this process does not have; take engine='foreach'"
        )
    names, _, binary = code.partition(b"\n")
    symbol = names.decode().split()[0]
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    return engine, engine.get_function_address(symbol)


def _lacking(code: bytes) -> list[str]:
    """The functions that the code calls and this process lacks: of vectors, where Numba has brought them along.

    If LLVM did not find one, it would look for no other, and the kernel jump to address 0.
    """
    _, *called = code.partition(b"\n")[0].decode().split()
    if called:
        llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())  # from now on LLVM knows this process
    return [name for name in called if llvm.address_of_symbol(name) is None]


def _compile(name: str, source: str) -> bytes:
    """The name of the kernel's symbol, those of what it calls, a newline, and its machine code. This is what needs
    Numba."""
    try:
        import numba
    except ImportError as error:
        raise RuntimeError(
            f"a kernel has to be compiled, and Numba cannot be imported ({error}); install one that fits this Python "
            "and this NumPy, or take engine='foreach'"
        ) from error
    if numba.config.DISABLE_JIT:
        raise RuntimeError(
            "a kernel has to be compiled, and Numba's DISABLE_JIT is set; leave it unset, or take engine='foreach'"
        )

    signature = numba.types.void(numba.types.CPointer(numba.types.int64))
    function = numba.cfunc(signature, error_model="numpy")(module_of(name, source).run)
    module = llvm.parse_assembly(_without_runtime(function.inspect_llvm()))
    outside = [each.name for each in (*module.functions, *module.global_variables) if each.is_declaration]
    called = [name for name in outside if not name.startswith("llvm.")]
    code: bytes = _target_machine().emit_object(module)
    return " ".join([str(function.native_name), *called]).encode() + b"\n" + code


def _without_runtime(assembly: str) -> str:
    """The same without the runtime of Numba and Python, of which a kernel needs nothing: what is declared of it has a
    body here, so that a process without Numba can load the code."""
    body = r"define weak \1 {\n  call void @llvm.trap()\n  unreachable\n}"
    trap = "" if "@llvm.trap" in assembly else "\ndeclare void @llvm.trap()\n"
    return _VARIABLE.sub(r"\1weak \2 zeroinitializer", _FUNCTION.sub(body, assembly)) + trap


def _target_machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True, reloc="pic")


def _undamaged(whole: bytes | None) -> bytes | None:
    """The code that was kept, or None where there is none or it is damaged."""
    if whole is None:
        return None
    checksum, code = whole[:32], whole[32:]
    return code if hashlib.sha256(code).digest() == checksum else None
