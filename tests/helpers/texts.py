"""Writes texts as they are published, and limits disk space."""

import contextlib
import gzip
import hashlib
import lzma
import resource
import zipfile

import numpy as np

from trax_hourglass.data import enwik8

CONTENT = b'<begin>' + np.random.default_rng(0).integers(0, 256, 9_993, np.uint8).tobytes()
TRAIN, VALID = CONTENT[:9_000], CONTENT[9_000:9_500]
PUBLICATION = enwik8.Publication(
    'tiny8', 'http://127.0.0.1:1/tiny8.zip', b'<begin>', ('sha1', hashlib.sha1(CONTENT).hexdigest()),
    {'train': hashlib.sha256(TRAIN).hexdigest(), 'valid': hashlib.sha256(VALID).hexdigest()}, None, (9_000, 500, 500))


def zipped(path, **members):
  """Writes a .zip of {name: content}."""
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, content in members.items():
      archive.writestr(name, content)


def packed(folder, kind, content=CONTENT):
  """Returns a compressed file of the given kind."""
  path = folder / f'some.{kind}'
  if kind == 'zip':
    zipped(path, tiny8=content)
  else:
    path.write_bytes({'raw': bytes, 'gz': gzip.compress, 'xz': lzma.compress}[kind](content))
  return path


def open_corpus(path, folder, publication=PUBLICATION):
  return enwik8.PublishedText(publication, path, folder / 'cache')


def left(folder):
  """Returns the files of the cache, without locks."""
  cached = folder / 'cache'
  return sorted(p.name for p in cached.iterdir() if not p.name.endswith('.lock')) if cached.exists() else []


def read(corpus, split):
  data = corpus.split(split)
  assert data.example_length is None
  return bytes(data.read(0, len(data)))


@contextlib.contextmanager
def limited_files(n_bytes):
  """Limits the size of all files, which imitates a full disk without special rights."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
