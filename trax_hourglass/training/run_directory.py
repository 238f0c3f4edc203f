"""Opens a run: its configuration, its model, and the weights of its last checkpoint.

`fit` writes a run directory, with `config.gin` and checkpoints. Files in Trax's format, such as the authors' of
`trax.models.HourglassLM`, open the same way, given a config file of their model.
"""

import dataclasses
import pathlib
import re
from typing import Any

import jax
from jax.extend import core as jex_core
import jax.numpy as jnp
import numpy as np
from trax import shapes

from trax_hourglass.models import pretrained as pretrained_lib
from trax_hourglass.models import weight_files
from trax_hourglass.models import weight_names
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import gin_config
from trax_hourglass.runtime import sharding
from trax_hourglass.training import checkpoints
from trax_hourglass.runtime.gin_config import bound  # Re-exported.  pylint: disable=unused-import
from trax_hourglass.training import run_config
from trax_hourglass.training.settings import Settings
from trax_hourglass.training import versions

CONFIG = 'config.gin'
_IMPORT = re.compile(r'\s*(import|from|include)\s+(\S+)')  # In gin.
_OF_TRAX = 'model.pkl.gz'  # The checkpoint of Trax's own loop.


@dataclasses.dataclass(frozen=True)
class Run:
  """Holds an opened run.

  Attributes:
    settings: the configuration of the run.
    model: the model in the requested mode, with the checkpoint's weights.
    step: training steps of the model, or None if the checkpoint does not record them.
    checkpoint: path of the checkpoint.
  """
  settings: Settings
  model: Any
  step: int | None
  checkpoint: pathlib.Path


def load(output_dir=None, config_files=(), bindings=(), mode='eval', checkpoint=None, signature=None):
  """Opens a run directory, or a checkpoint with a config.

  Args:
    output_dir: the run directory; None with a checkpoint and config files.
    config_files: gin files; empty for the directory's own config.
    bindings: gin bindings, which override all files.
    mode: mode of the model, see `Hourglass`.
    checkpoint: a step of the directory's checkpoints, 'best', or a weight file, ours or the authors', see
      weight_files.py, which may contain the config. None for the directory's newest undamaged checkpoint.
    signature: ShapeDtype of the tokens for which the model is initialised; None for one token.

  Returns:
    The Run.

  Raises:
    InputError: a missing directory, or one of another format or without config or checkpoint; a checkpoint that is
      damaged or does not fit the config's model, or a config that gin refuses.
  """
  with distributed.together(f'opening {output_dir!r}'):
    directory = None if output_dir is None else _existing(output_dir)
    is_file = checkpoint is not None and weight_files.is_file(checkpoint)
    if directory is None and not is_file:
      raise InputError('no model is named: give a run directory, a pretrained model, or a checkpoint and the config '
                       'file of its model')
    if directory is not None:
      versions.check_format(directory)
    stored = weight_files.read(pathlib.Path(checkpoint).expanduser()) if is_file else None
    if directory is None and not config_files and stored.config is None:
      raise InputError(f'{checkpoint} holds no config: give the config file of its model')
  found = pathlib.Path(stored.where) if is_file else _choose(directory, checkpoint)
  with distributed.together('configuring the model'):
    files, own = list(config_files), []
    if not files and directory is not None:
      files = _own_config(directory)
      own = run_config.of_older_versions(pathlib.Path(files[0]).read_text(encoding='utf-8'))
    elif not files:
      own = _config_of_file(stored)
    gin_config.parse_gin(files, bindings, own)
    settings = Settings.read()
    model = settings.model(mode=mode)
    _initialise(model, signature or shapes.ShapeDtype((1, 1), np.int32))
    step = _take_file(model, stored) if is_file else int(found.name)
  distributed.check_same('settings', run_config.of_all_hosts())
  if not is_file:
    _take_checkpoint(model, directory, step)
  return Run(settings, model, step, found)


def pretrained(name, mode='eval', bindings=()):
  """Opens a model that comes with the package.

  Args:
    name: name of the model, such as 'enwik8-small'; see `models.pretrained.names`.
    mode: mode of the model, 'eval' or 'predict', see `Hourglass`.
    bindings: gin bindings, such as the location of the data.

  Returns:
    The Run.

  Raises:
    InputError: no model has this name; see also `load`.
  """
  return load(checkpoint=pretrained_lib.file_of(name), bindings=bindings, mode=mode)


def setting(name):
  """Returns a parameter of `fit`, such as 'corpus' or 'length', from gin's current configuration.

  Raises:
    InputError: `fit` has no such parameter; see also Settings.
  """
  try:
    return getattr(Settings.read(), name)
  except AttributeError as error:
    raise InputError(str(error)) from error


def curve(directory):
  """Returns [(step, bits)] of a run's evaluations on a sample of the valid split, from its newest checkpoint."""
  store = checkpoints.Store(directory)
  history = store.notes(max(store.steps()))['history']['_values']
  evaluated = history.get('eval', {})
  return [tuple(point) for name in (checkpoints.BITS, checkpoints.SAMPLE_BITS) for point in evaluated.get(name, [])]


def _existing(output_dir):
  directory = pathlib.Path(output_dir).expanduser()
  if not directory.is_dir():
    what = 'a file' if directory.exists() else 'missing'
    raise InputError(f'run directory {str(directory)!r} is {what}: give the --output_dir of a training run')
  return directory


def _own_config(directory):
  if not (directory / CONFIG).exists():
    raise InputError(f'{str(directory)!r} holds no {CONFIG}: give the config file of the run')
  return [str(directory / CONFIG)]


def _choose(directory, which):
  """Returns the folder of an undamaged checkpoint: the newest, the best, or that of a step."""
  store = checkpoints.Store(directory)
  if which is None:
    step = store.newest_sound()
    if step is None:
      if (directory / _OF_TRAX).exists():
        raise InputError(f"{str(directory)!r} is a run of Trax's own trainer: give --checkpoint {directory / _OF_TRAX} "
                         'and the config file of its model')
      raise InputError(f'there is no checkpoint in {str(directory)!r}: train first')
  else:
    with distributed.together(f'opening the checkpoint {which!r}'):
      step = store.best() if which == 'best' else int(which) if str(which).isdecimal() else None
      if step is None:
        raise InputError(f'checkpoint {str(which)!r} does not exist: give a step, of {store.steps()}, \'best\' where '
                         'the run was evaluated, or a file that ends with .pkl.gz or .safetensors')
      store.check(step)
  return store.folder / str(step)


def _initialise(model, signature):
  """Initialises the model's state, with zeros for weights: none are drawn, since the checkpoint replaces them."""
  program, (weights, state) = jax.make_jaxpr(lambda: model.init(signature), return_shape=True)()
  _forget_keys(model)
  leaves, tree = jax.tree.flatten(state)
  compiled = jax.jit(lambda: jex_core.jaxpr_as_fun(program)()[-len(leaves):] if leaves else [])
  model.weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), weights)
  model.state = jax.tree.unflatten(tree, compiled())


def _forget_keys(layer):
  """Resets a layer's PRNG key, which the traced `init` left as a tracer; Trax draws a new one on demand."""
  layer._rng = None  # pylint: disable=protected-access
  for sublayer in layer.sublayers:
    _forget_keys(sublayer)


def _take_checkpoint(model, directory, step):
  """Sets the model's weights from a checkpoint."""
  store = checkpoints.Store(directory)
  leaves, tree = jax.tree.flatten(model.weights)
  (embedding, _), *_ = store.notes(step)['shapes']['weights'] or [((), None)]
  _check_ends(store.folder / str(step), embedding, model)
  everywhere = sharding.everywhere(sharding.over_devices())
  restored = store.restore(step, checkpoints.abstract({'weights': leaves}, lambda _: everywhere))
  model.weights = jax.tree.unflatten(tree, [jnp.asarray(np.asarray(w)) for w in restored['weights']])


def _config_of_file(stored):
  """Returns the config lines of a weight file, which is not trusted.

  Raises:
    InputError: the config imports modules of others, includes files, or registers functions by module name, so that
      any Python code could run.
  """
  if '__gin__' in stored.config:
    raise InputError(f'{stored.where}: its config registers functions of any module: give a config file that you trust')
  for line in filter(None, map(_IMPORT.match, stored.config.replace('\\\n', ' ').splitlines())):
    if line[1] == 'include' or line[2].split('.')[0] not in ('trax', 'trax_hourglass'):
      raise InputError(f'{stored.where}: its config has {line[0].strip()!r}, which could run any code: give a config '
                       'file that you trust')
  return stored.config.splitlines()


def _take_file(model, stored):
  """Sets the model's weights from a file; returns the step of the file, or None."""
  _check_ends(stored.where, stored.shape_of(weight_names.names(model)[0]), model)
  weight_files.take(stored, model)
  return stored.step


def _check_ends(path, found, model):
  """Raises InputError if vocabulary or width differ.

  The first weight is the embedding (V, D), with stored shape `found`.
  """
  wanted = jax.tree.leaves(model.weights)[0].shape
  for axis, (what, parameter) in enumerate((('vocabulary', 'vocab_size'), ('width', 'd_model'))):
    if len(found) == len(wanted) == 2 and found[axis] != wanted[axis]:
      raise InputError(f'{path} has a {what} of {found[axis]} and the config one of {wanted[axis]}: give the config '
                       f'that it was trained with ({parameter})')
