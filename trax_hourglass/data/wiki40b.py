"""Wiki-40B through TFDS: skeleton, signatures only."""


class Wiki40b:

  def __init__(self, data_dir=None, sentencepiece=None, cache_dir=None):
    raise NotImplementedError
