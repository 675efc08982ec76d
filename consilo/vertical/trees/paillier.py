"""Paillier's cryptosystem: sums of numbers that whoever adds them up cannot read.

Paillier 1999, scheme 1 with g = n + 1; decryption and the key holder's encryption by the Chinese
remainder theorem (section 7 there). A ciphertext is ``(1 + m n) u mod n^2`` with a random n-th
residue u; products of ciphertexts are ciphertexts of sums. Semantically secure against
chosen-plaintext attacks if n-th residues cannot be told from others modulo n^2; that, as the
factoring of n, is believed of 2,048 bits and more.

Differences from the paper: the key holder draws u from a table of powers. Modulo p^2 the n-th
residues are the cyclic group of order p - 1 that ``g^p`` generates for a primitive root g of p, so
``(g^p)^e`` with e uniform below p - 1 is a uniform one: ciphertexts have the paper's distribution.
A primitive root is found because p - 1 is made as a product that is known: ``k p'`` with a prime p'
and a k of at most 25 bits, as FIPS 186-5 allows (A.1, primes with auxiliary primes).

Own code over GMP's integers (gmpy2), since of the libraries on offer python-paillier 1.5 is under
the GPL, which this project's licence cannot take in, LightPHE works on Python's integers (83 ms for
a power modulo n^2, GMP 9 ms), and TenSEAL's ciphertexts hold thousands of numbers, of which single
rows cannot be added up. With 2,048 bits, on one core: 0.5 ms to encrypt, 2.5 ms to decrypt, 5 µs to
add, 9 ms to blind. Not hardened against somebody who times a silo's arithmetic on its own machine.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import secrets
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo.errors import Refused, ReplyInvalid

Number: TypeAlias = Any
"""An integer of GMP's, `gmpy2.mpz`: the package is loaded where it is needed only."""

Bytes = npt.NDArray[np.uint8]
"""Ciphertexts on the wire: uint8, [ciphertexts, bytes], big-endian."""

MIN_BITS = 2048
MAX_BITS = 4096
"""A longer modulus would only keep those busy who add up under it."""
_COFACTOR_BITS = 24
_PIECE = 4
"""Powers that are worth a thread."""
_SHARE = 1000
"""Ciphertexts that are worth a process: half a second's work."""
_CERTAINTY = 40
"""Rounds of Miller and Rabin's test: 4^-40 for a composite that passes."""


def gmp() -> Any:
    """Return the module gmpy2.

    Raises:
        Refused: where it is not installed.
    """
    try:
        import gmpy2
    except ImportError:
        raise Refused(
            "histograms: secure needs the package gmpy2, which this silo has not; install "
            "consilo[secure-trees] here, or set 'plain' in the job",
            code="package",
        ) from None
    return gmpy2


@dataclass(frozen=True)
class PublicKey:
    """What adds up and blinds ciphertexts.

    Args:
        n: the modulus.
    """

    n: Number

    @classmethod
    def from_bytes(cls, data: Bytes, *, sender: str, min_bits: int = MIN_BITS) -> PublicKey:
        """Return the key that `to_bytes` wrote.

        Args:
            data: uint8, [bytes].
            sender: who sent it.
            min_bits: of the modulus.

        Raises:
            ReplyInvalid: for a modulus that is too short or too long, or cannot be one.
        """
        if np.size(data) > MAX_BITS // 8:
            raise ReplyInvalid(f"the public key from silo '{sender}' is over {MAX_BITS} bits long")
        n = gmp().mpz(int.from_bytes(np.asarray(data, np.uint8).tobytes(), "big"))
        if not min_bits <= n.bit_length() <= MAX_BITS or not n.is_odd() or n.is_square():
            raise ReplyInvalid(
                f"the public key from silo '{sender}' is no modulus of {min_bits} bits"
            )
        return cls(n)

    def to_bytes(self) -> Bytes:
        """Return the key, uint8, [bytes]."""
        return np.frombuffer(int(self.n).to_bytes(self.width // 2, "big"), np.uint8)

    @cached_property
    def square(self) -> Number:
        """The modulus of ciphertexts."""
        return self.n * self.n

    @property
    def width(self) -> int:
        """How many bytes a ciphertext has."""
        return 2 * -(-int(self.n.bit_length()) // 8)

    @property
    def room(self) -> int:
        """Bits of a plaintext: integers below 2^(room - 1) in size come back as they were.

        n has room + 1 bits, so it is above 2^room, and half of it above 2^(room - 1).
        """
        return int(self.n.bit_length()) - 1

    def blinded(self, values: Sequence[Number]) -> list[Number]:
        """Return other ciphertexts of the same numbers; nobody can tell that they are."""
        units = []
        for _ in values:
            while gmp().gcd(unit := gmp().mpz(secrets.randbelow(int(self.n))), self.n) != 1:
                continue  # as likely as to guess a factor
            units.append(unit)
        residues = self._raised(units, self.n)
        return [a * b % self.square for a, b in zip(values, residues, strict=True)]

    def shifted(self, values: Sequence[Number], bits: int) -> list[Number]:
        """Return ciphertexts of the numbers times 2^bits."""
        return self._raised(values, gmp().mpz(1) << bits)

    def inverses(self, values: Sequence[Number]) -> list[Number]:
        """Return ciphertexts of the negative numbers, by one inversion (Montgomery's trick)."""
        modulus, products, running = self.square, [], gmp().mpz(1)
        for value in values:
            products.append(running)
            running = running * value % modulus
        inverse = gmp().invert(running, modulus)
        inverted = list(values)
        for place in range(len(inverted) - 1, -1, -1):
            inverted[place] = inverse * products[place] % modulus
            inverse = inverse * values[place] % modulus
        return inverted

    def _raised(self, values: Sequence[Number], exponent: Number) -> list[Number]:
        """Return powers, made on every core: GMP works outside the interpreter's lock."""
        cores = min(len(os.sched_getaffinity(0)), len(values) // _PIECE)
        if cores < 2:
            return list(gmp().powmod_base_list(list(values), exponent, self.square))
        pieces = [list(values[core::cores]) for core in range(cores)]
        powers = list(values)
        with ThreadPoolExecutor(cores) as pool:
            made = pool.map(
                lambda piece: gmp().powmod_base_list(piece, exponent, self.square), pieces
            )
            for core, piece in enumerate(made):
                powers[core::cores] = piece
        return powers

    def wired(self, values: Iterable[Number]) -> Bytes:
        """Return ciphertexts for the wire, uint8, [ciphertexts, bytes]."""
        width = self.width
        data = b"".join(int(value).to_bytes(width, "big") for value in values)
        return np.frombuffer(data, np.uint8).reshape(-1, width)

    def unwired(self, values: Bytes, *, sender: str) -> list[Number]:
        """Return ciphertexts from the wire.

        Raises:
            ReplyInvalid: for what is no ciphertext of this key.
        """
        wired = np.ascontiguousarray(values)
        if wired.dtype != np.uint8 or wired.ndim != 2 or wired.shape[1] != self.width:
            raise ReplyInvalid(
                f"ciphertexts from silo '{sender}' have another width than the key's"
            )
        data, mpz = wired.tobytes(), gmp().mpz
        numbers = [
            mpz(int.from_bytes(data[at : at + self.width], "big"))
            for at in range(0, len(data), self.width)
        ]
        if any(not 0 < each < self.square for each in numbers):
            raise ReplyInvalid(f"a ciphertext from silo '{sender}' is outside the key's range")
        return numbers


@dataclass(frozen=True)
class PrivateKey:
    """What encrypts fast, and decrypts; it never leaves its silo.

    Args:
        p: a prime.
        q: another, of as many bits.
        root_p: a primitive root of p.
        root_q: of q.
    """

    p: Number
    q: Number
    root_p: Number
    root_q: Number

    @classmethod
    def generate(cls, bits: int = MIN_BITS) -> PrivateKey:
        """Return a new key with a modulus of ``bits`` bits; takes a second or so."""
        p, root_p = _prime(bits // 2)
        q, root_q = _prime(bits // 2)
        while p == q or gmp().gcd(p * q, (p - 1) * (q - 1)) != 1:
            q, root_q = _prime(bits // 2)
        return cls(p, q, root_p, root_q)

    @cached_property
    def public(self) -> PublicKey:
        """The key that others get."""
        return PublicKey(self.p * self.q)

    def encrypt(self, values: Sequence[int]) -> list[Number]:
        """Return a ciphertext of each integer; negative ones come back as such."""
        cores = min(len(os.sched_getaffinity(0)), len(values) // _SHARE)
        # Only a process without other threads can be forked without harm.
        if cores < 2 or threading.active_count() > 1 or mp.current_process().daemon:
            return self._encrypted(values)
        return self._encrypted_in_processes(values, cores)

    def _encrypted_in_processes(self, values: Sequence[int], cores: int) -> list[Number]:
        """Return the same, by a forked process for each core: threads would wait for each other."""
        context, width = mp.get_context("fork"), self.public.width
        self._tables  # noqa: B018 - made once, before the processes part

        def work(piece: Sequence[int], pipe: Connection) -> None:
            made = self._encrypted(piece)
            pipe.send_bytes(b"".join(int(each).to_bytes(width, "big") for each in made))
            pipe.close()

        share = -(-len(values) // cores)
        working = []
        for start in range(0, len(values), share):
            mine, theirs = context.Pipe(duplex=False)
            piece = values[start : start + share]
            process = context.Process(target=work, args=(piece, theirs), daemon=True)
            process.start()
            theirs.close()
            working.append((process, mine))
        ciphertexts: list[Number] = []
        for process, mine in working:
            with mine:
                data = np.frombuffer(mine.recv_bytes(), np.uint8).reshape(-1, width)
            process.join()
            ciphertexts += self.public.unwired(data, sender="this silo itself")
        return ciphertexts

    def _encrypted(self, values: Sequence[int]) -> list[Number]:
        (table_p, square_p), (table_q, square_q) = self._tables
        below_p, below_q = int(self.p - 1), int(self.q - 1)
        size = len(table_p)
        inverse, n = gmp().invert(square_q, square_p), self.public.n
        ciphertexts = []
        for value in values:
            message = 1 + value * n
            x, y = message % square_p, message % square_q
            for powers, digit in zip(
                table_p, secrets.randbelow(below_p).to_bytes(size, "little"), strict=True
            ):
                x = x * powers[digit] % square_p
            for powers, digit in zip(
                table_q, secrets.randbelow(below_q).to_bytes(size, "little"), strict=True
            ):
                y = y * powers[digit] % square_q
            ciphertexts.append(y + square_q * ((x - y) * inverse % square_p))
        return ciphertexts

    def decrypt(self, value: Number) -> int:
        """Return the integer in a ciphertext, between -n/2 and n/2."""
        p, q, n = self.p, self.q, self.public.n
        mod_p = self._residue(value, p, q)
        mod_q = self._residue(value, q, p)
        plain = mod_q + q * ((mod_p - mod_q) * gmp().invert(q, p) % p)
        return int(plain - n if 2 * plain > n else plain)

    def to_payload(self) -> dict[str, Any]:
        """Return the key as its silo keeps it."""
        return {name: str(getattr(self, name)) for name in ("p", "q", "root_p", "root_q")}

    @classmethod
    def from_payload(cls, value: dict[str, Any]) -> PrivateKey:
        """Return the key that `to_payload` wrote."""
        return cls(**{name: gmp().mpz(each) for name, each in value.items()})

    @staticmethod
    def _residue(value: Number, prime: Number, other: Number) -> Number:
        """Return the plaintext modulo a prime: with g = n + 1, L(g^(p-1)) is -q modulo p."""
        raised = gmp().powmod(value, prime - 1, prime * prime)
        return (raised - 1) // prime * gmp().invert(-other, prime) % prime

    @cached_property
    def _tables(self) -> tuple[tuple[list[list[Number]], Number], ...]:
        """For p and q: ``table[j][d]`` is the generator to the power of d 256^j; and the square."""
        return tuple(
            (_powers(gmp().powmod(root, prime, prime * prime), prime * prime), prime * prime)
            for prime, root in ((self.p, self.root_p), (self.q, self.root_q))
        )


def _powers(generator: Number, modulus: Number) -> list[list[Number]]:
    table, base = [], generator
    for _ in range(-(-modulus.bit_length() // 16)):
        row = [gmp().mpz(1)]
        for _ in range(255):
            row.append(row[-1] * base % modulus)
        table.append(row)
        base = row[-1] * base % modulus
    return table


def _prime(bits: int) -> tuple[Number, Number]:
    """Return a random prime of exactly so many bits, the two highest set, and a primitive root."""
    mpz, is_prime = gmp().mpz, gmp().is_prime
    inner = bits - _COFACTOR_BITS
    while not is_prime(large := mpz(secrets.randbits(inner) | (1 << (inner - 1)) | 1), _CERTAINTY):
        continue
    low, high = 3 * mpz(2) ** (bits - 2) // large + 1, mpz(2) ** bits // large - 1
    while True:
        cofactor = low + secrets.randbelow(int(high - low))
        prime = cofactor * large + 1
        if cofactor % 2 == 0 and is_prime(prime, _CERTAINTY):
            break
    factors = [large, *_factors(int(cofactor))]
    while True:
        root = mpz(2 + secrets.randbelow(int(prime - 3)))
        if all(gmp().powmod(root, (prime - 1) // each, prime) != 1 for each in factors):
            return prime, root


def _factors(number: int) -> set[int]:
    """Return the prime factors of a small number."""
    factors, divisor = set(), 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.add(divisor)
            number //= divisor
        divisor += 1
    return factors | ({number} if number > 1 else set())
