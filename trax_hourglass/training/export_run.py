"""Exports a run's weights as one file."""

import pathlib

import gin

from trax_hourglass.models import interop
from trax_hourglass.models import weight_files
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.training import run_config
from trax_hourglass.training import run_directory


def export(output_dir, path, checkpoint=None, authors=False, dtype='float32', bindings=()):
  """Writes the weights of a run to a file.

  Args:
    output_dir: the run directory.
    path: file to write: `.safetensors`, with names and config, or `.pkl.gz`, for Trax.
    checkpoint: a step or 'best'; None for the newest.
    authors: whether to write a `.pkl.gz` in the weight order of `trax.models.HourglassLM`.
    dtype: type of the weights in a `.safetensors`, 'float32' or 'float16', which halves the file.
    bindings: gin bindings, which override those of the run.

  Returns:
    The training step of the weights.

  Raises:
    InputError: an unknown file ending, a run that cannot be opened, or a weight that float16 cannot hold.
  """
  path = pathlib.Path(path).expanduser()
  weight_files.check_name(path)
  if authors and not str(path).endswith(weight_files.TRAX):
    raise InputError(f'{path}: trax.models.HourglassLM reads {weight_files.TRAX}: end the name so, or leave --authors '
                     'out')
  if dtype != 'float32' and not str(path).endswith(weight_files.SAFE):
    raise InputError(f'{path}: Trax reads float32: end the name with {weight_files.SAFE}, or leave --dtype out')
  run = run_directory.load(output_dir, bindings=bindings, checkpoint=checkpoint)
  if authors:
    interop.to_trax(run.model, path)
  else:
    config = run_config.without_comments(gin.config_str(max_line_length=run_config.ONE_LINE))
    weight_files.write(path, run.model, run.step, config, dtype)
  return run.step
