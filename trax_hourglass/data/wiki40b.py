"""Reads Wiki-40B, English (Guo et al. 2020), through TensorFlow Datasets, as bytes or as SentencePiece pieces.

The articles of a split are concatenated in the order of TFDS's files, each as published. An article begins with a line
break and the line `_START_ARTICLE_`, followed by the title. Sections and paragraphs follow behind markers of the same
form. Within a paragraph, `_NEWLINE_` stands for a line break.

The markers are kept, since bits per byte of a modified text would not be comparable with published results. Articles
need no other separators.
"""

import os
import pathlib

import numpy as np

from trax_hourglass.data import cache
from trax_hourglass.data import tfds_source
from trax_hourglass.data.corpus import Corpus
from trax_hourglass.data.corpus import Tokens
from trax_hourglass.runtime.errors import InputError

_NAME = 'wiki40b/en'
_TFDS_SPLITS = {'train': 'train', 'valid': 'validation', 'test': 'test'}
_BY_HAND = ('prepare it where there is a network, by python -c "import tensorflow_datasets as tfds; '
            'tfds.builder(\'wiki40b/en\', data_dir=\'FOLDER\').download_and_prepare()", copy the folder here, and name '
            "it by Wiki40b.data_dir = 'FOLDER'")


class Wiki40b(Corpus):
  """Holds the articles' text; each split is read from TFDS once, into a flat file of the cache."""

  def __init__(self, data_dir=None, sentencepiece=None, cache_dir=None):
    """Finds the data set.

    Args:
      data_dir: TFDS's folder, which holds or will hold the data set; None for TFDS's default.
      sentencepiece: file of a SentencePiece model, whose pieces are the tokens; None for bytes.
      cache_dir: folder of the cache; None for the one of `cache.folder`.

    Raises:
      InputError: the file is not a SentencePiece model. On access to a split: TFDS cannot prepare the data set, or the
        cache cannot be written.
    """
    made = tfds_source.builder(_NAME, data_dir)
    model, vocab_size = (None, 256) if sentencepiece is None else _read_model(sentencepiece)
    dtype = np.dtype(np.uint8 if vocab_size <= 1 << 8 else np.uint16 if vocab_size <= 1 << 16 else np.int32)
    key = cache.fingerprint([os.path.expanduser(sentencepiece)] if sentencepiece else [], str(made.data_dir))

    def chunks(split):
      change = (lambda text: text) if model is None else model.tokenize
      for article in tfds_source.examples(made, _TFDS_SPLITS[split], 'text', _BY_HAND, change):
        yield article if model is None else article.astype(dtype)

    def tokens(split):
      path = cache.folder(cache_dir) / f'{_NAME.replace("/", "-")}-{made.version}-{split}-{key}'
      cache.build(path, lambda: chunks(split), f'{_NAME} {split}')
      return Tokens([(path, 0, os.path.getsize(path) // dtype.itemsize)], dtype)

    super().__init__(_NAME, {split: lambda split=split: tokens(split) for split in _TFDS_SPLITS}, vocab_size)
    self.summary = f'{_NAME} of {made.data_dir}: train, valid, test as published'
    if model is not None:
      self.unit = 'token'


def _read_model(path):
  """Returns tensorflow_text's tokenizer of a SentencePiece model and its number of pieces."""
  import tensorflow as tf  # pylint: disable=g-import-not-at-top
  import tensorflow_text  # pylint: disable=g-import-not-at-top
  try:
    content = pathlib.Path(path).expanduser().read_bytes()
  except OSError as error:
    raise InputError(
        f'SentencePiece model {str(path)!r} cannot be read ({error.strerror}): give a .model file') from error
  try:
    model = tensorflow_text.SentencepieceTokenizer(content, out_type=tf.int32)
    return model, int(model.vocab_size())
  except (tf.errors.OpError, ValueError) as error:
    raise InputError(f'{str(path)!r} is not a SentencePiece model: {error}') from error
