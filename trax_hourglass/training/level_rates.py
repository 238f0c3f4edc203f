"""Sets separate learning rates for the levels of a hierarchy, or for weights by name, with any Trax optimizer."""

import re

import jax
from trax.optimizers import base

from trax_hourglass.models import weight_names
from trax_hourglass.runtime.errors import InputError

_DEEPER = 'valley'  # A weight's name contains it once for each shortening above the weight.


class LevelRates(base.Optimizer):
  """Wraps a Trax optimizer and multiplies each weight's update by a factor.

  In Trax's optimizers the update is proportional to the learning rate, so the factor scales the weight's learning rate.
  H-Net (arXiv 2507.07955, section 2.3.2) sets learning rates per level. With a factor of 1 everywhere nothing changes.
  """

  def __init__(self, optimizer, rates):
    """Creates the optimizer.

    Args:
      optimizer: the Trax optimizer.
      rates: a factor for each level from the top down, resampling being part of the deeper level. Or a dictionary
        {regular expression for part of a name: factor}, of which the first match counts; see weight_names.py.

    Raises:
      InputError: an invalid optimizer or rates.
    """
    if not hasattr(optimizer, 'tree_init') or isinstance(optimizer, type):
      raise InputError(f'optimizer of LevelRates is {optimizer!r}: give a reference such as @trax.optimizers.Adam()')
    factors = rates.values() if isinstance(rates, dict) else rates if isinstance(rates, (tuple, list)) else ()
    if not factors or not all(isinstance(factor, (int, float)) and factor >= 0 for factor in factors):
      raise InputError(f'rates of LevelRates is {rates!r}: give a number for each level, such as (1.0, 0.5), or '
                       "{'part of a name': number}")
    super().__init__()
    self._optimizer, self._rates = optimizer, rates
    self._clip_grad_norm = getattr(optimizer, '_clip_grad_norm', None)
    self._factors = None

  def name_weights(self, names):
    """Chooses each weight's factor.

    Args:
      names: names of the weights, in the order of the weights.

    Raises:
      InputError: a level without a factor, a factor without a level, or a pattern that matches no name.
    """
    if isinstance(self._rates, dict):
      for pattern in self._rates:
        if not any(re.search(pattern, name) for name in names):
          raise InputError(f'rates of LevelRates has {pattern!r}, which is in no name of a weight; one name is '
                           f'{names[0]!r}')
      self._factors = [next((factor for pattern, factor in self._rates.items() if re.search(pattern, name)), 1)
                       for name in names]
      return
    levels = [name.split('/').count(_DEEPER) for name in names]
    if len(self._rates) != max(levels) + 1:
      raise InputError(f'rates of LevelRates is {self._rates!r}: expected {max(levels) + 1} of them, one for each '
                       'level')
    self._factors = [self._rates[level] for level in levels]

  @property
  def slots(self):
    return self._optimizer.slots

  @slots.setter
  def slots(self, slots):
    self._optimizer.slots = slots

  @property
  def opt_params(self):
    return self._optimizer.opt_params

  @opt_params.setter
  def opt_params(self, opt_params):
    self._optimizer.opt_params = opt_params

  def tree_init(self, weight_tree):
    return self._optimizer.tree_init(weight_tree)

  def tree_update(self, step, grad_tree, weight_tree, slots, opt_params, store_slots=True):
    new, slots, stats = self._optimizer.tree_update(step, grad_tree, weight_tree, slots, opt_params, store_slots)
    leaves, tree = jax.tree.flatten(weight_tree)
    scaled = [after if factor == 1 else before + factor * (after - before)
              for before, after, factor in zip(leaves, jax.tree.leaves(new), self._factors, strict=True)]
    return jax.tree.unflatten(tree, scaled), slots, stats


def initialise(optimizer, weights, model):
  """Initialises an optimizer's slots, and passes the names of the weights to its `name_weights`, if any.

  Args:
    optimizer: a Trax optimizer.
    weights: the trained weights, which are exactly those of the model.
    model: the initialised model.
  """
  if hasattr(optimizer, 'name_weights'):
    optimizer.name_weights(weight_names.names(model))
  optimizer.tree_init(weights)


def innermost(optimizer):
  """Returns the optimizer itself, or the innermost one that LevelRates wraps."""
  return innermost(optimizer._optimizer) if isinstance(optimizer, LevelRates) else optimizer
