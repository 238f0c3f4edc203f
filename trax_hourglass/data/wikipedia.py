"""enwik8 and text8: skeleton, signatures only."""


class Enwik8:

  def __init__(self, path=None, cache_dir=None):
    raise NotImplementedError


class Text8:

  def __init__(self, path=None, cache_dir=None):
    raise NotImplementedError
