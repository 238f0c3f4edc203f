"""Downloads over HTTP that go on where they were cut off."""

import http.client
import os
import urllib.error
import urllib.request

from trax_hourglass.data import cache
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import progress

_TIMEOUT_SECONDS = 30
_TRIES = 5
_CHUNK = 1 << 16


def fetch(url, path):
  """Downloads a file; what an earlier try left in PATH.unfinished is kept and only the rest is asked for.

  The caller verifies the content, and removes the file if it is wrong: that it came from one and the same version on
  the server is not known before.

  Args:
    url: address.
    path: pathlib.Path; exists only when as many bytes have come as the server announced.

  Raises:
    InputError: no network, an answer other than the file, a transfer that is cut off again and again, or a file that
      cannot be written.
  """
  unfinished = path.with_name(f'{path.name}.unfinished')
  with cache.locked(path):
    if path.exists():
      return
    for _ in range(_TRIES):
      if _try(url, unfinished):
        with cache.clear_write_errors(path):
          os.replace(unfinished, path)
        return
      progress.say(f'{url}: cut off at byte {_size(unfinished):,}, trying again')
  raise InputError(f'{url}: cut off {_TRIES} times; {_size(unfinished):,} bytes are kept, and the same command goes on '
                   'there')


def _try(url, unfinished):
  """Returns whether all of the file is there now."""
  have = _size(unfinished)
  request = urllib.request.Request(url, headers={'Range': f'bytes={have}-'} if have else {})
  try:
    response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    with error:
      if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        if error.headers.get('Content-Range') == f'bytes */{have}':  # It was all there, but not renamed.
          return True
        unfinished.unlink()
        return False
    raise InputError(f'{url}: the server answers {error.code} {error.reason}') from error
  except (OSError, http.client.HTTPException) as error:
    raise InputError(f'{url}: no connection ({getattr(error, "reason", error)})') from error
  with response:
    if not (response.status == http.HTTPStatus.PARTIAL_CONTENT
            and response.headers.get('Content-Range', '').startswith(f'bytes {have}-')):
      have = 0  # The server sends the whole file.
    size = response.headers.get('Content-Length')
    total = have + int(size) if size else None
    with cache.clear_write_errors(unfinished):
      file = open(unfinished, 'r+b' if have else 'wb')
    with file, progress.progress(f'downloading {url}', total, have) as bar:
      file.seek(have)
      came = _copy(response, file, unfinished, bar)
      with cache.clear_write_errors(unfinished):
        file.flush()
        os.fsync(file.fileno())
  return came and total in (None, _size(unfinished))


def _copy(response, file, unfinished, bar):
  """Copies until the end; returns False if the connection broke."""
  while True:
    try:
      chunk = response.read(_CHUNK)
    except (OSError, http.client.HTTPException):
      return False
    if not chunk:
      return True
    with cache.clear_write_errors(unfinished):
      file.write(chunk)
    bar.update(len(chunk))


def _size(path):
  return path.stat().st_size if path.exists() else 0
