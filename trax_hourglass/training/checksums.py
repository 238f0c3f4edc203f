"""Seals folders with a list of their files' SHA-256 checksums, which `sha256sum -c SHA256SUMS` checks as well."""

import hashlib
import os

_SUMS = 'SHA256SUMS'
_CHUNK = 1 << 20


def seal(folder):
  """Lists the checksums of a folder's files, and waits until the list is on the disk.

  Args:
    folder: a pathlib.Path.
  """
  write(folder / _SUMS, _listed(_sums(folder)))


def problem(folder):
  """Returns a message about the first problem of a sealed folder, or None if all files match their checksums.

  Args:
    folder: a pathlib.Path.
  """
  try:
    text, found = (folder / _SUMS).read_text(), _sums(folder)
    written = dict(reversed(line.split('  ', 1)) for line in text.splitlines())
  except (OSError, ValueError) as error:  # Unreadable files, or no list of checksums.
    return str(error)
  wrong = sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))
  if wrong or text != _listed(found):
    return f'{[*wrong, _SUMS][0]!r} is not as it was written'
  return None


def write(path, text):
  """Writes a file and waits until it is on the disk."""
  with open(path, 'w') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())


def _sums(folder):
  """Returns {relative path: SHA-256} of all files except the list of checksums."""
  digests = {}
  for file in sorted(p for p in folder.rglob('*') if p.is_file()):
    name = str(file.relative_to(folder))
    if name == _SUMS:
      continue
    digest = hashlib.sha256()
    with open(file, 'rb') as f:
      while chunk := f.read(_CHUNK):
        digest.update(chunk)
    digests[name] = digest.hexdigest()
  return digests


def _listed(sums):
  """Returns the text that `sha256sum -c` reads."""
  return ''.join(f'{digest}  {name}\n' for name, digest in sorted(sums.items()))
