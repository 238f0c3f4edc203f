"""Any folder of images: skeleton, signatures only."""


class ImageFolder:

  def __init__(self, path, size, other_sizes='resize', corrupt='error', cache_dir=None):
    raise NotImplementedError
