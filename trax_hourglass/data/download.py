"""Downloads files over HTTP and resumes interrupted downloads."""

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
  """Downloads a file; if an earlier attempt left PATH.unfinished, only the rest is requested.

  The caller verifies the content and removes a wrong file, since the file on the server may have changed between
  attempts.

  Args:
    url: address.
    path: pathlib.Path; exists only once as many bytes have arrived as the server announced.

  Raises:
    InputError: no network, an answer other than the file, repeatedly interrupted transfers, or a file that cannot be
      written.
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
  """Requests the rest of the file and returns whether the file is complete."""
  have = _size(unfinished)
  request = urllib.request.Request(url, headers={'Range': f'bytes={have}-'} if have else {})
  try:
    response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    with error:
      if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        if error.headers.get('Content-Range') == f'bytes */{have}':  # Complete, but not renamed.
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
  """Copies the response to its end; returns False if the connection broke."""
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
