"""Compares the configs of a run and of its resumption; some parameters may differ, others may not."""

import inspect
import re

import gin

from trax_hourglass.runtime import gin_config

# Parameters that a resumed run may change: duration, intervals and hardware, which affect a step only by rounding.
# `fit.accumulate` is not among them, since each micro-batch has its own dropout masks.
FREE = frozenset(('fit.n_steps', 'fit.eval_every', 'fit.eval_batches', 'fit.checkpoint_every', 'fit.keep_last',
                  'fit.keep_every', 'fit.keep_best', 'fit.max_valid_tokens', 'fit.on_non_finite', 'fit.loss_chunk',
                  'fit.shard_weights', 'fit.n_devices', 'fit.stop_after', 'fit.init_from', 'fit.init_partial',
                  'fit.branch_from', 'Hourglass.recompute', 'Hourglass.attention_form'))
ONE_LINE = 1 << 20  # In characters, so that gin never wraps a binding.
PLACES = gin_config.PLACES  # The location of data may change, the content may not: see data/fingerprint.py.
# A parameter bound to this macro, such as the schedule's end in gin/base.gin, may change with it, but not on its own.
FREE_MACRO = 'n_steps'
_MACRO = re.compile(r'%([\w./]+)')


def differences(before, now):
  """Returns the forbidden differences between two of gin's operative configs, one string for each parameter.

  Args:
    before: text of the run's config, with one line for each binding.
    now: text of the new config, likewise.
  """
  before, now = _bindings(before), _bindings(now)
  was, is_ = _resolved(before), _resolved(now)
  for bindings in before, now:
    bindings.pop(FREE_MACRO, None)
  followed, follows = _resolved(before), _resolved(now)
  # gin lists only what was called so far, so one text may have more parameters than the other. A change of layer or
  # corpus shows in the binding that selects it. gin leaves out defaults that are functions, such as layers.
  for one, other in ((was, is_), (followed, follows)):
    _add_functions(one, other)
    _add_functions(other, one)
  return [f'{name} was {was[name]} and is {is_[name]}' for name in sorted(was.keys() & is_.keys())
          if was[name] != is_[name] and followed[name] != follows[name]
          and name not in FREE and name.rsplit('.', 1)[-1] not in PLACES]


def _add_functions(bindings, other):
  """Adds the defaults of parameters that only `other` binds, where they are functions, as gin writes functions.

  A default equals a reference to the function of the same name, which is then written as in `other`.
  """
  called = {name.rpartition('.')[0] for name in bindings}
  for name in other.keys() - bindings.keys():
    selector, _, parameter = name.rpartition('.')
    found = gin.config._REGISTRY.get_match(selector.rpartition('/')[2]) if selector in called else None
    parameters = inspect.signature(found.wrapped).parameters if found else {}
    default = getattr(parameters.get(parameter), 'default', inspect.Parameter.empty)
    if callable(default) and default is not inspect.Parameter.empty:
      label = getattr(default, '__name__', repr(default))
      bound = gin.config._REGISTRY.get_match(other[name].lstrip('@')) if other[name].startswith('@') else None
      is_same = other[name].rpartition('.')[2].lstrip('@') == label
      is_same |= bound is not None and default in (bound.wrapped, bound.wrapper)
      bindings[name] = other[name] if is_same else f'@{label}'


def of_older_versions(text):
  """Returns gin bindings that give the run of an older version the same data as at its start.

  Versions up to 0.2 took no splits from the names of a user's files, see data/splits.py.

  Args:
    text: text of the run's config.gin, which names every parameter that the run's version had.
  """
  return [f"{corpus}.splits = 'shared'" for corpus in ('ByteCorpus', 'ImageFolder')
          if re.search(rf'\b{corpus}\b', text) and f'{corpus}.splits' not in text]


def of_all_hosts():
  """Returns the bindings that must be equal on all hosts, as text: all of gin's except locations of data."""
  return '\n'.join(
      f'{name} = {value}' for name, value in sorted(_bindings(gin.config_str(max_line_length=ONE_LINE)).items())
      if name.rsplit('.', 1)[-1] not in PLACES)


def without_comments(text):
  """Returns a config without comments, since gin's comment rulers are as long as the longest line, ONE_LINE."""
  return ''.join(f'{line}\n' for line in text.splitlines() if line and not line.startswith('#'))


def _bindings(text):
  """Returns {name: value} of a config's lines."""
  return dict(line.split(' = ', 1) for line in text.splitlines() if ' = ' in line and not line.startswith('#'))


def _resolved(bindings):
  """Returns {name: value} of all bindings except macros, with macros in values expanded; unknown macros stay."""
  # gin writes a macro as a binding without a dot.
  macros = {name: value for name, value in bindings.items() if '.' not in name}

  def value_of(value, depth=0):
    if depth > len(macros):
      return value
    return _MACRO.sub(lambda match: value_of(macros.get(match[1], match[0]), depth + 1), value)
  return {name: value_of(value) for name, value in bindings.items() if name not in macros}
