"""Opening a run again: its configuration, its model, and the weights of its last checkpoint.

A run directory is what `fit` writes: `config.gin` and Trax's `model.pkl.gz` with the weights beside it. The authors'
checkpoints of `trax.models.HourglassLM` open the same way, with a config file that says what model they are of.
"""

import copy
import dataclasses
import pathlib
from typing import Any

from trax_hourglass import trax_compat  # Before anything else that imports Trax.  pylint: disable=unused-import

import gin
import jax
import jax.numpy as jnp
import numpy as np
from trax import shapes

from trax_hourglass import command_line
from trax_hourglass import interop
from trax_hourglass import trax_files

CONFIG = 'config.gin'
CHECKPOINT = 'model.pkl.gz'
_REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class Run:
  """An opened run; gin holds its configuration.

  Attributes:
    model: the model in the mode that was asked for, with the checkpoint's weights.
    step: steps it was trained for, or None where the checkpoint does not say.
    checkpoint: path of the checkpoint.
  """
  model: Any
  step: int | None
  checkpoint: pathlib.Path


def load(output_dir=None, config_files=(), bindings=(), mode='eval', checkpoint=None, signature=None):
  """Opens a run directory, or a checkpoint with a config.

  Args:
    output_dir: the run directory; None with a checkpoint and config files.
    config_files: gin files; empty for the directory's own.
    bindings: gin bindings that win over all files.
    mode: of the model, see `Hourglass`.
    checkpoint: a `.pkl.gz` file in our layout or the authors'; None for the directory's.
    signature: ShapeDtype of the tokens the model is initialised for; None for one token.

  Returns:
    The Run.

  Raises:
    ValueError: no such directory, no config or checkpoint in it, or a checkpoint that does not fit the config's model.
    UsageError: gin refuses the config.
  """
  files, path = _find(output_dir, config_files, checkpoint)
  command_line.parse_gin(files, bindings)
  model = setting('model')(mode=mode)
  arrays = trax_files.read_weights(path)
  model.init(signature or shapes.ShapeDtype((1, 1), np.int32))
  _check_ends(path, arrays, model)
  if _is_own_layout(arrays, model):
    leaves, tree = jax.tree.flatten(model.weights)
    model.weights = jax.tree.unflatten(tree, [jnp.asarray(a, leaf.dtype) for a, leaf in zip(arrays, leaves)])
  else:
    try:
      interop.from_trax(arrays, model)
    except ValueError as error:
      raise ValueError(f'{path} does not fit the model of {", ".join(files)}: {error}') from error
  return Run(model, trax_files.read_step(path), path)


def setting(name, default=_REQUIRED):
  """Returns a parameter of `fit` as gin is configured now, such as 'corpus' or 'length'; makes what it refers to.

  Args:
    name: the parameter.
    default: its value where nothing is bound; without one it must be.

  Raises:
    ValueError: nothing is bound and there is no default.
  """
  try:
    return bound(f'fit.{name}')
  except ValueError:
    if default is _REQUIRED:
      raise ValueError(f'the config says nothing about fit.{name}: give a config file of a whole run, such as '
                       'gin/quickstart.gin') from None
    return default


def bound(parameter):
  """Returns what a gin parameter such as 'Hourglass.hierarchy' is bound to, macros and references resolved.

  Raises:
    ValueError: nothing is bound to it.
  """
  return copy.deepcopy(gin.query_parameter(parameter))  # gin makes a reference's object when it is copied.


def _find(output_dir, config_files, checkpoint):
  """Returns the list of gin files and the checkpoint's path."""
  if output_dir is None:
    if checkpoint is None or not config_files:
      raise ValueError('give a run directory, or a checkpoint and the config file of its model')
    return list(config_files), pathlib.Path(checkpoint).expanduser()
  directory = pathlib.Path(output_dir).expanduser()
  if not directory.is_dir():
    what = 'a file' if directory.exists() else 'missing'
    raise ValueError(f'run directory {str(directory)!r} is {what}: give the --output_dir of a training run')
  path = pathlib.Path(checkpoint).expanduser() if checkpoint else directory / CHECKPOINT
  if not path.exists():
    raise ValueError(f'there is no checkpoint {str(path)!r}: train first, at least until fit.checkpoint_every')
  if not config_files and not (directory / CONFIG).exists():
    raise ValueError(f'{str(directory)!r} holds no {CONFIG}: give the config file of the run')
  return list(config_files) or [str(directory / CONFIG)], path


def _is_own_layout(arrays, model):
  """Whether the arrays are the model's own, in its order; the authors' have no axis of equal blocks."""
  return [a.shape for a in arrays] == [leaf.shape for leaf in jax.tree.leaves(model.weights)]


def _check_ends(path, arrays, model):
  """Raises ValueError where vocabulary or width differ; both layouts begin with the embedding (V, D)."""
  wanted = jax.tree.leaves(model.weights)[0].shape
  found = arrays[0].shape if arrays else ()
  for axis, (what, parameter) in enumerate((('vocabulary', 'vocab_size'), ('width', 'd_model'))):
    if len(found) == len(wanted) == 2 and found[axis] != wanted[axis]:
      raise ValueError(f'{path} has a {what} of {found[axis]} and the config one of {wanted[axis]}: give the config that '
                       f'it was trained with ({parameter})')
