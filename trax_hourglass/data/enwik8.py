"""Reads enwik8 and text8 with their standard splits: 90 million bytes train, then 5 million valid and 5 million test.

Matt Mahoney published both (http://mattmahoney.net/dc/textdata). The bytes of enwik8 are the first 10^8 of an English
Wikipedia dump of 2006. The file text8 is 10^8 characters of the dump's text, in the letters a-z and single spaces.
"""

import dataclasses
import hashlib
import itertools
import os
import pathlib

from trax_hourglass.data import archives
from trax_hourglass.data import cache
from trax_hourglass.data import download
from trax_hourglass.data.corpus import Corpus
from trax_hourglass.data.corpus import SPLITS
from trax_hourglass.data.corpus import Tokens
from trax_hourglass.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class Publication:
  """Describes a published file.

  Attributes:
    name: name of the file.
    url: address of the .zip that holds the file.
    begins: first bytes of the file, which distinguish another file from a damaged one.
    checksum: (algorithm, hexadecimal digest) of the whole file.
    split_sha256: {split: hexadecimal digest} of the splits with a known one.
    alphabet: the bytes that occur in the file, or None for all 256.
    sizes: bytes of train, valid and test.
  """
  name: str
  url: str
  begins: bytes
  checksum: tuple
  split_sha256: dict = dataclasses.field(default_factory=dict)
  alphabet: bytes | None = None
  sizes: tuple = (90_000_000, 5_000_000, 5_000_000)

  @property
  def ends(self):
    return list(itertools.accumulate(self.sizes))


ENWIK8 = Publication(
    name='enwik8',
    url='http://mattmahoney.net/dc/enwik8.zip',
    begins=b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.3/"',
    checksum=('sha1', '57b8363b814821dc9d47aa4d41f58733519076b2'),
    split_sha256={'train': 'f8978bd9ca51fbea387d5145d310652ab39904bcbc8ab2647932c8c2e0539e64',
                  'valid': '16b8b889f05ebeb5684d497d49383e8e55eb3634cee2f9a023dcab68cbf64f17'})
# No checksum of a part of text8 is published, so a part is checked by its first words and its alphabet.
TEXT8 = Publication(
    name='text8',
    url='http://mattmahoney.net/dc/text8.zip',
    begins=b' anarchism originated as a term of abuse',
    checksum=('md5', '3bea1919949baf155f99411df5fada7e'),
    alphabet=b' abcdefghijklmnopqrstuvwxyz')


class PublishedText(Corpus):
  """Holds a published text and its splits; the file may lack the last splits."""

  def __init__(self, publication, path=None, cache_dir=None):
    """Finds, decompresses or downloads the file, and verifies it.

    Args:
      publication: the Publication.
      path: the file, raw or as .zip, .gz, .xz, .bz2 or .zst, whole or without its last splits; None downloads it. A
        compressed file is decompressed once, into the cache.
      cache_dir: folder of the cache; None for the one of `cache.folder`.

    Raises:
      InputError: the file does not exist, is damaged, has another content or length, or cannot be downloaded, or the
        cache cannot be written.
    """
    folder = cache.folder(cache_dir)
    path = path if path is None else pathlib.Path(path).expanduser()
    if path is None:
      file = _download(publication, folder)
    elif archives.kind(path) == 'raw':
      file = path
      for _ in _verified(publication, path):
        pass
    else:
      file = cache.build(folder / f'{publication.name}-{cache.fingerprint([path])}',
                         lambda: _verified(publication, path), publication.name)
    n = os.path.getsize(file)
    ends = publication.ends
    there = {name: Tokens([(file, end - size, size)])
             for name, end, size in zip(SPLITS, ends, publication.sizes) if end <= n}
    missing = {name: f'{str(path)!r} holds the first {n:,} bytes only, that is {" and ".join(there)}; give the whole '
                     f'file of {ends[-1]:,} bytes' for name in SPLITS if name not in there}
    super().__init__(publication.name, {name: lambda tokens=tokens: tokens for name, tokens in there.items()},
                     missing=missing)
    parts = ', '.join(f'{name} {size:,}' for name, size in zip(there, publication.sizes))
    self.summary = f'{publication.name} of {path or file}: {n:,} bytes; in this order, as published: {parts}'


class Enwik8(PublishedText):
  """Holds enwik8 as bytes."""

  def __init__(self, path=None, cache_dir=None):
    """Reads the file, see `PublishedText`."""
    super().__init__(ENWIK8, path, cache_dir)


class Text8(PublishedText):
  """Holds text8 as bytes."""

  def __init__(self, path=None, cache_dir=None):
    """Reads the file, see `PublishedText`."""
    super().__init__(TEXT8, path, cache_dir)


def _download(publication, folder):
  """Returns the path of the raw file, downloaded if the cache does not hold it."""
  path = folder / publication.name
  if path.exists():
    return path
  packed = folder / pathlib.PurePosixPath(publication.url).name
  try:
    download.fetch(publication.url, packed)
  except InputError as error:
    name = publication.name
    raise InputError(f"{error}. Or fetch {publication.url} by hand where there is a network, and name the file by "
                     f"{name[0].upper() + name[1:]}.path = 'FILE'") from error
  try:
    return cache.build(path, lambda: _verified(publication, packed, whole=True), publication.name)
  finally:  # No longer needed once decompressed; if it is wrong, the next attempt must not resume it.
    packed.unlink(missing_ok=True)


def _verified(publication, path, whole=False):
  """Yields a file's content in chunks; raises InputError, at the latest at the end, unless it is the publication's."""
  name, ends = publication.name, publication.ends
  digests = [hashlib.sha256() for _ in ends]
  digest_of_all = hashlib.new(publication.checksum[0])
  n = 0
  for chunk in archives.content(path, name):
    if not n and not chunk.startswith(publication.begins[:len(chunk)]):
      raise InputError(f'{str(path)!r} begins with {chunk[:20]!r}, so it does not hold {name}, which begins with '
                       f'{publication.begins[:20]!r}')
    if publication.alphabet is not None and (others := chunk.translate(None, publication.alphabet)):
      raise InputError(f'{str(path)!r} holds the byte {others[:1]!r}, which {name} does not')
    digest_of_all.update(chunk)
    for digest, end, size in zip(digests, ends, publication.sizes):
      digest.update(memoryview(chunk)[max(0, end - size - n):max(0, end - n)])
    n += len(chunk)
    if n > ends[-1]:
      raise InputError(f'{str(path)!r} holds more than the {ends[-1]:,} bytes of {name}: give the file itself')
    yield chunk
  if n not in ends[-1:] if whole else n not in ends:
    lengths = ', '.join(f'{end:,} ({" and ".join(SPLITS[:i + 1])})' for i, end in enumerate(ends[:-1]))
    raise InputError(f'{str(path)!r} holds {n:,} bytes, and {name} has {ends[-1]:,}; also taken are its first '
                     f'{lengths}')
  for split, digest, end in zip(SPLITS, digests, ends):
    expected = publication.split_sha256.get(split)
    if end <= n and expected and digest.hexdigest() != expected:
      raise InputError(_differs(path, f"the {split} split of {name}", digest, expected))
  if n == ends[-1] and digest_of_all.hexdigest() != publication.checksum[1]:
    raise InputError(_differs(path, name, digest_of_all, publication.checksum[1]))


def _differs(path, what, digest, expected):
  return (f'{str(path)!r} is not {what}: its {digest.name} is {digest.hexdigest()}, not {expected}; the file is '
          'damaged or another, fetch it again')
