"""Downsampled ImageNet, the two of them: skeleton, signatures only."""


class VanDenOordImagenet:

  def __init__(self, size, path=None, data_dir=None, cache_dir=None):
    raise NotImplementedError


class ChrabaszczImagenet:

  def __init__(self, size, path=None, cache_dir=None):
    raise NotImplementedError
