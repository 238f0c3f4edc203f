"""CIFAR-10: skeleton, signatures only."""


class Cifar10:

  def __init__(self, path=None, n_valid=5000, data_dir=None, cache_dir=None):
    raise NotImplementedError
