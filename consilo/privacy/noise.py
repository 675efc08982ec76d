"""Secret randomness: uniform and Gaussian numbers from a ChaCha20 key stream.

Noise that hides a person must not be guessable. ``torch.Generator`` on a CPU is a Mersenne
twister seeded with 32 bits: whoever knows the noisy update can try all seeds and subtract the
noise. Here 32 secret bytes key a stream cipher; each purpose has its own stream (HKDF with the
purpose as context), so that no two purposes share a number and a repeated step answers the same
bytes.

Gaussian numbers come from Marsaglia's polar method. Its logarithm is evaluated here with
additions, multiplications and divisions only, which IEEE 754 rounds exactly, so that the same key
gives the same bytes on any machine; numpy's own ``log`` differs in the last bit between CPUs.

Floating-point attacks (Mironov 2012; Jin et al. 2022; Holohan and Braghin 2021) tell two
data sets apart because the set of reachable sums ``value + noise`` depends on ``value``. Opacus
answers with the mean of four Gaussians, which makes that set expensive to search. `add_gaussian`
removes the dependence: value and noise are both rounded to one grid of spacing
``2**-30`` of the standard deviation (Google's "Secure noise generation", 2020, does the same),
so that the reachable sums are the same grid whatever the value is. It also needs one Gaussian
instead of four. The rounding adds at most ``sqrt(d) * std * 2**-30`` to the L2 sensitivity of a
vector of d entries: ``4e-6`` standard deviations for 16 million entries. `noise_std` pays for it.
What remains: the noise is the Gaussian to 53 bits, cut at about 12 standard deviations
(a probability of 1e-33), not the exact discrete Gaussian of Canonne et al. 2020.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from consilo.errors import IncompatibleJob

Float64Array = npt.NDArray[np.float64]

_BLOCK = 1 << 14  # pairs a pass: temporaries stay in the second-level cache
_GRID_BITS = 30
ARITHMETIC = 2.0**-20
"""Relative; the most that rounding adds to how far one row moves a sum of up to a million rows."""
_MAX_BYTES = (1 << 32) * 64  # ChaCha20's 32-bit block counter


class SecretStream:
    """A stream of numbers that only the holder of the key can make.

    Args:
        key: 32 secret bytes; they never leave the silo.
        context: what the numbers are for. It must name everything that distinguishes this use
            from every other use of the key: run, step, and the fingerprint of the data.

    Two streams with the same key and context give the same numbers, in the same order of calls.

    >>> stream = SecretStream(bytes(32), "example")
    >>> stream.uniform(3) == SecretStream(bytes(32), "example").uniform(3)
    array([ True,  True,  True])
    """

    def __init__(self, key: bytes, context: str) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

        if len(key) != 32:
            raise ValueError(f"the key of a secret stream has 32 bytes, not {len(key)}")
        self._key = key
        self._context = context
        cipher = Cipher(algorithms.ChaCha20(_derive(key, context), bytes(16)), mode=None)
        self._encryptor = cipher.encryptor()
        self._num_bytes_used = 0

    def __repr__(self) -> str:
        return f"SecretStream(context={self._context!r})"

    def child(self, purpose: str, question: str = "") -> SecretStream:
        """Return an independent stream for one purpose; the parent's position does not matter.

        Args:
            purpose: what for.
            question: all that an answer depends on and the context does not name, such as the
                values of parameters: to another question belong other numbers.
        """
        context = f"{purpose}/{question}" if question else purpose
        return type(self)(_derive(self._key, self._context), context)

    def bytes(self, count: int) -> bytes:
        """Return the next ``count`` bytes of the key stream."""
        self._num_bytes_used += count
        if self._num_bytes_used > _MAX_BYTES:
            raise OverflowError("a secret stream ends after 256 GiB; derive one child per step")
        return self._encryptor.update(bytes(count))

    def uniform(self, count: int) -> Float64Array:
        """Return ``count`` numbers in [0, 1), multiples of 2**-53."""
        words = np.frombuffer(self.bytes(8 * count), dtype="<u8")
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, shape: int | tuple[int, ...], std: float = 1.0) -> Float64Array:
        """Return Gaussian numbers of mean 0 and standard deviation ``std``, as float64."""
        count = shape if isinstance(shape, int) else math.prod(shape)
        result = np.empty(count, np.float64)
        filled = 0
        while filled < count:
            # A square's share of points inside the circle is pi / 4; ask for a little more.
            wanted = min(_BLOCK, int((count - filled) / 2 * 1.30) + 8)
            pairs = self._polar_pairs(wanted)
            part = pairs[: count - filled]
            result[filled : filled + part.size] = part
            filled += part.size
        result *= std
        return result.reshape(shape)

    def _polar_pairs(self, num_points: int) -> Float64Array:
        points = self.uniform(2 * num_points)
        points *= 2.0
        points -= 1.0
        x, y = points[:num_points], points[num_points:]
        square = x * x + y * y
        inside = (square < 1.0) & (square > 0.0)
        x, y, square = x[inside], y[inside], square[inside]
        factor = np.sqrt(-2.0 * exact_log(square) / square)
        return np.concatenate([x * factor, y * factor])


class ReproducibleStream(SecretStream):
    """The stream of a job that asks for noise which can be made again: it hides nothing.

    Its key is public, so that content in its context would keep nothing secret, and would make
    other noise of one last bit that differs between two machines. It must name step and silo only;
    to whatever question, a purpose has the same numbers.
    """

    def child(self, purpose: str, question: str = "") -> SecretStream:
        """Return an independent stream for one purpose; ``question`` changes nothing."""
        return super().child(purpose)


def add_gaussian(
    values: npt.NDArray[np.floating], std: float, stream: SecretStream
) -> Float64Array:
    """Return ``values`` plus Gaussian noise, both on one grid; see the module for why.

    Args:
        values: any shape; what is to be hidden.
        std: standard deviation of the noise; 0 adds nothing and rounds nothing.
        stream: advanced by the numbers that were used.
    """
    exact = np.asarray(values, np.float64)
    if std == 0:
        return exact.copy()
    # A power of two: division and multiplication by it are exact.
    spacing = 2.0 ** (math.floor(math.log2(std)) - _GRID_BITS)
    noise = stream.normal(exact.shape, std)
    return np.asarray((np.rint(exact / spacing) + np.rint(noise / spacing)) * spacing)


def noise_std(sigma: float, *, sensitivity: float, size: int) -> float:
    """Return the standard deviation with which the noise multiplier is ``sigma`` in truth.

    It pays for what arithmetic adds to the sensitivity: `ARITHMETIC` of it where sums are made, and
    the grid that `add_gaussian` rounds to.

    Args:
        sigma: noise over sensitivity, as the accountant knows it.
        sensitivity: the most that one unit of privacy moves the exact values: L2 norm.
        size: entries of all that is noised together.

    Raises:
        IncompatibleJob: where there is more noise and rounding than a float64 can tell apart.
    """
    rounding = sigma * math.sqrt(size) * 2.0**-_GRID_BITS
    if rounding > 0.5:
        raise IncompatibleJob(
            f"noise of {sigma:g} times the sensitivity on {size} numbers is too coarse for float64;"
            " raise epsilon, or use a smaller model"
        )
    return sigma * sensitivity * (1.0 + ARITHMETIC) / (1.0 - rounding)


def exact_log(values: Float64Array) -> Float64Array:
    """Return the natural logarithm of positive numbers, with the same bits on every machine.

    ``log(m * 2**e) = e * log(2) + 2 * atanh((m - 1) / (m + 1))``; the series is cut where a term
    falls below 2**-54 of the sum. Within 2 units in the last place of the true value.
    """
    mantissa, exponent = np.frexp(values)
    low = mantissa < math.sqrt(0.5)
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    power = exponent - low
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square = ratio * ratio
    series = np.full_like(square, 1.0 / 23.0)
    for odd in range(21, 0, -2):
        series *= square
        series += 1.0 / odd
    return np.asarray(power * math.log(2.0) + 2.0 * ratio * series)


def _derive(key: bytes, context: str) -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = b"consilo secret stream 1\x00" + context.encode()
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(key)
