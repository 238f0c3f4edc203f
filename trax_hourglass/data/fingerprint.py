"""Fingerprints a split, so that a resumed run notices changed data."""

import hashlib
import math

from trax_hourglass.runtime.checks import check_vocabulary

_WHOLE = 1 << 30  # Up to this many tokens, all are hashed: 0.16 s for 100 million bytes in memory.
_PIECES, _PIECE = 512, 1 << 16


def fingerprint(split, vocab_size=math.inf):
  """Returns a string that depends on the tokens alone.

  Above 1,074 million tokens, only 512 evenly spaced pieces of 65,536 are hashed, including the first and the last.

  Args:
    split: has `len` and `read(start, length)`.
    vocab_size: exclusive upper bound of the tokens.

  Raises:
    InputError: a token that was read is out of bounds. All hosts then raise before the first step; later, only the
      host whose batch holds the token would.
  """
  n = len(split)
  digest = hashlib.sha256()
  if n <= _WHOLE:
    places = [(start, min(_PIECE, n - start)) for start in range(0, n, _PIECE)]
  else:
    places = [(number * (n - _PIECE) // (_PIECES - 1), _PIECE) for number in range(_PIECES)]
  for start, length in places:
    tokens = split.read(start, length)
    check_vocabulary(tokens, vocab_size)
    digest.update(tokens.tobytes())
  return f'{n} tokens, {digest.hexdigest()[:32]}'
