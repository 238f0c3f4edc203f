"""Whether a run that goes on is still the same run: what gin may say differently, and what it may not."""

import re

# By the last part of a gin name: they say how long, how often, where and on what a run goes on, not what it computes. Where
# data lie may change, what it is may not: see data/fingerprint.py.
FREE = frozenset((
    'n_steps', 'eval_every', 'eval_batches', 'checkpoint_every', 'keep_last', 'keep_every', 'keep_best', 'max_valid_tokens',
    'on_non_finite', 'accumulate', 'loss_chunk', 'shard_weights', 'n_devices', 'recompute', 'path', 'cache_dir', 'data_dir'))
_MACRO = re.compile(r'%([\w./]+)')


def differences(before, now):
  """Returns what differs between two of gin's operative configs and is not free to, one string for each parameter.

  Args:
    before: text of the run's config, each binding on a line of its own.
    now: text of the config that is asked for.
  """
  before, now = _resolved(before), _resolved(now)
  # gin lists what has been called so far, so one text may know more parameters than the other. Another layer or corpus shows
  # where it is chosen, which both know.
  return [f'{name} was {before[name]} and is {now[name]}' for name in sorted(before.keys() & now.keys())
          if before[name] != now[name] and name.rsplit('.', 1)[-1] not in FREE]


def _resolved(text):
  """Returns {name: value} of all bindings, macros replaced by what they stand for."""
  bindings = dict(line.split(' = ', 1) for line in text.splitlines() if ' = ' in line and not line.startswith('#'))
  # gin writes a macro as a binding without a dot.
  macros = {name: value for name, value in bindings.items() if '.' not in name}

  def value_of(value, depth=0):
    if depth > len(macros):
      return value
    return _MACRO.sub(lambda match: value_of(macros.get(match[1], match[0]), depth + 1), value)
  return {name: value_of(value) for name, value in bindings.items() if name not in macros}
