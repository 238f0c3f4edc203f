"""Tests downloads of corpora over failing connections: each ends in the whole verified text, or in a clear error."""

import contextlib
import dataclasses
import http.server
import threading

import pytest
from tests.helpers.texts import CONTENT
from tests.helpers.texts import PUBLICATION
from tests.helpers.texts import TRAIN
from tests.helpers.texts import left
from tests.helpers.texts import limited_files
from tests.helpers.texts import open_corpus
from tests.helpers.texts import packed
from tests.helpers.texts import read



@contextlib.contextmanager
def server(content, ranges=True, cuts=(), status=None):
  """Serves content and yields (address, list of the Range headers received).

  The i-th transfer breaks off after cuts[i] bytes.
  """
  asked, cuts = [], list(cuts)

  class Handler(http.server.BaseHTTPRequestHandler):

    def do_GET(self):  # pylint: disable=invalid-name
      wanted = self.headers.get('Range')
      asked.append(wanted)
      if status:
        return self.send_error(status)
      first = int(wanted.removeprefix('bytes=').removesuffix('-')) if wanted and ranges else 0
      if first >= len(content):
        self.send_response(416)
        self.send_header('Content-Range', f'bytes */{len(content)}')
        self.send_header('Content-Length', '0')
        return self.end_headers()
      self.send_response(206 if first else 200)
      if first:
        self.send_header('Content-Range', f'bytes {first}-{len(content) - 1}/{len(content)}')
      self.send_header('Content-Length', str(len(content) - first))
      self.end_headers()
      self.wfile.write(content[first:first + cuts.pop(0) if cuts else None])

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as httpd:
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
      yield f'http://127.0.0.1:{httpd.server_port}/tiny8.zip', asked
    finally:
      httpd.shutdown()
      thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
  monkeypatch.setenv('no_proxy', '127.0.0.1')


def download(url, folder):
  return open_corpus(None, folder, dataclasses.replace(PUBLICATION, url=url))


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
  return packed(tmp_path_factory.mktemp('archive'), 'zip').read_bytes()


def test_a_download_is_unpacked_and_cached(tmp_path, archive):
  with server(archive) as (url, asked):
    for _ in range(2):
      assert read(download(url, tmp_path), 'test') == CONTENT[9_500:]
  assert asked == [None] and left(tmp_path) == ['tiny8']


@pytest.mark.parametrize('ranges, expected', [(True, [None, 'bytes=1000-', 'bytes=4000-']),
                                              (False, [None, 'bytes=1000-', 'bytes=3000-'])])
def test_an_interrupted_transfer_is_completed(tmp_path, archive, ranges, expected):
  with server(archive, ranges, cuts=(1000, 3000)) as (url, asked):
    assert read(download(url, tmp_path), 'train') == TRAIN
  assert asked == expected and left(tmp_path) == ['tiny8']


def test_a_failed_transfer_resumes_on_the_next_call(tmp_path, archive):
  with server(archive, cuts=[100] * 5) as (url, asked):
    with pytest.raises(ValueError, match='cut off 5 times; 500 bytes are kept, and the same command goes on there'):
      download(url, tmp_path)
    assert left(tmp_path) == ['tiny8.zip.unfinished']
    assert read(download(url, tmp_path), 'train') == TRAIN
  assert asked[-1] == 'bytes=500-'


def test_a_full_but_unrenamed_download_is_used_or_refetched(tmp_path, archive):
  for content, expected in ((archive, [f'bytes={len(archive)}-']),
                            (archive + b'more', [f'bytes={len(archive) + 4}-', None])):
    folder = tmp_path / str(len(content))
    (folder / 'cache').mkdir(parents=True)
    (folder / 'cache/tiny8.zip.unfinished').write_bytes(content)
    with server(archive) as (url, asked):
      assert read(download(url, folder), 'train') == TRAIN
    assert asked == expected


def test_a_download_of_wrong_content_is_not_kept(tmp_path, archive):
  (tmp_path / 'cache').mkdir()
  (tmp_path / 'cache/tiny8.zip.unfinished').write_bytes(b'\0' * 1000)  # As if from another version of the file.
  with server(archive) as (url, asked):
    with pytest.raises(ValueError, match='damaged|does not hold'):
      download(url, tmp_path)
    assert not left(tmp_path)
    assert read(download(url, tmp_path), 'train') == TRAIN
  assert asked == ['bytes=1000-', None]


def test_a_download_of_only_part_of_the_text_is_refused(tmp_path):
  with server(packed(tmp_path, 'zip', CONTENT[:9_500]).read_bytes()) as (url, _):
    with pytest.raises(ValueError, match='holds 9,500 bytes, and tiny8 has 10,000'):
      download(url, tmp_path)
  assert not left(tmp_path)


def test_failed_downloads_name_the_cause(tmp_path, archive):
  by_hand = r"Or fetch http.*/tiny8\.zip by hand where there is a network, and name the file by Tiny8\.path = 'FILE'"
  with pytest.raises(ValueError, match=rf'no connection \(.*Connection refused\)\. {by_hand}'):
    download(PUBLICATION.url, tmp_path)
  with server(archive, status=404) as (url, _):
    with pytest.raises(ValueError, match=f'the server answers 404 Not Found. {by_hand}'):
      download(url, tmp_path)
  with server(archive) as (url, _), limited_files(5_000), pytest.raises(ValueError,
                                                                        match='cannot write .*File too large'):
    download(url, tmp_path)
  assert left(tmp_path) == ['tiny8.zip.unfinished']
  with server(archive) as (url, _):
    assert read(download(url, tmp_path), 'train') == TRAIN
