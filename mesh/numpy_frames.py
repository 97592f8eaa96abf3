"""NumPy arrays and scalars <-> (dtype, shape, order) and one buffer. Imports numpy only once a body needs it."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mesh.exceptions import UndecodableBody

if TYPE_CHECKING:
    import numpy as np


class CannotDescribe(TypeError):
    """An array or scalar whose content is not plain bytes; the text is the remedy."""


class Parts(NamedTuple):
    """An array taken apart."""

    dtype: object  #: text, or for structured types the list that numpy.lib.format uses
    shape: list[int]
    order: Literal["C", "F"]  #: how `buffer` runs through the elements
    buffer: memoryview | bytes  #: flat bytes; shares the array's memory unless that was not contiguous


def kind_of(value: object) -> Literal["array", "scalar"] | None:
    """What numpy calls the value. None for subclasses (matrix, masked array, memmap): they are more than an array."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if type(value) is numpy.ndarray:
        return "array"
    if isinstance(value, numpy.generic) and type(value) is value.dtype.type:
        return "scalar"
    return None


def take_apart(array: np.ndarray[Any, Any]) -> Parts:
    """An array as its parts, without a copy if it is C- or F-contiguous.

    Raises:
        CannotDescribe: the array holds Python objects, or its dtype is known to this process only.
    """
    dtype = _describe(array.dtype)
    if array.flags.c_contiguous:
        order: Literal["C", "F"] = "C"
    elif array.flags.f_contiguous:
        order = "F"
    else:
        array, order = array.copy(order="C"), "C"
    # By way of bytes: numpy exports no buffer of a datetime64.
    buffer = array.reshape(-1, order=order).view("u1").data if array.nbytes else b""
    return Parts(dtype, list(array.shape), order, buffer)


def put_together(parts: Parts) -> np.ndarray[Any, Any]:
    """The array over the memory of `parts.buffer`, read-only. Raises UndecodableBody where they don't fit."""
    numpy = _numpy()
    dtype = _dtype(numpy, parts.dtype)
    wanted, came = dtype.itemsize * math.prod(parts.shape), memoryview(parts.buffer).nbytes
    if wanted != came:
        raise UndecodableBody(reason=f"an array of {wanted} bytes came with {came}")
    array: np.ndarray[Any, Any] = numpy.ndarray(parts.shape, dtype, buffer=parts.buffer, order=parts.order)
    array.flags.writeable = False
    return array


def scalar_parts(scalar: np.generic) -> tuple[object, bytes]:
    """The dtype and the bytes of a numpy scalar. Raises CannotDescribe."""
    return _describe(scalar.dtype), scalar.tobytes()[: scalar.dtype.itemsize]  # an empty str_ gives a character


def scalar_of(dtype: object, content: bytes) -> object:
    """The numpy scalar, of its own memory. Raises UndecodableBody."""
    return put_together(Parts(dtype, [], "C", content)).copy()[()]


def _describe(dtype: np.dtype[Any]) -> object:
    if dtype.hasobject:
        raise CannotDescribe("an array of Python objects has no bytes to send: pass array.tolist(), or give it a dtype")
    numpy = sys.modules["numpy"]
    if numpy.dtype(dtype.str) == dtype:
        return dtype.str
    try:
        description: object = numpy.lib.format.dtype_to_descr(dtype)
        rebuilt = numpy.lib.format.descr_to_dtype(description)
    except ValueError:  # fields that overlap, or are out of order
        description = rebuilt = None
    if rebuilt != dtype or rebuilt.type is not dtype.type:
        raise CannotDescribe(f"no other process would know the dtype {dtype}: pass a copy or view with a standard one")
    return description


def _dtype(numpy: ModuleType, description: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = (
        numpy.dtype(description) if isinstance(description, str) else numpy.lib.format.descr_to_dtype(description)
    )
    if dtype.hasobject:
        raise UndecodableBody(reason="it describes an array of Python objects")
    return dtype


def _numpy() -> ModuleType:
    try:
        import numpy
        import numpy.lib.format
    except ImportError as error:
        raise UndecodableBody(
            reason="it holds a NumPy array and NumPy is not installed here: pip install mesh-tasks[numpy]"
        ) from error
    return numpy
