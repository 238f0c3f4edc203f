"""Compares the configs of a run and of its resuming: what may differ, and what may not."""

import re

import gin

from trax_hourglass.runtime import gin_config

# They say how long, how often and on what a run goes on, not what it computes but for rounding. `fit.accumulate` is not
# among them: each part of a batch has dropout masks of its own.
FREE = frozenset(('fit.n_steps', 'fit.eval_every', 'fit.eval_batches', 'fit.checkpoint_every', 'fit.keep_last',
                  'fit.keep_every', 'fit.keep_best', 'fit.max_valid_tokens', 'fit.on_non_finite', 'fit.loss_chunk',
                  'fit.shard_weights', 'fit.n_devices', 'fit.stop_after', 'fit.init_from', 'fit.init_partial',
                  'fit.branch_from', 'Hourglass.recompute', 'Hourglass.attention_form'))
ONE_LINE = 1 << 20  # Characters, so that gin breaks no binding into lines.
PLACES = gin_config.PLACES  # Where data lie may change, what it is may not: see data/fingerprint.py.
# What follows it, as a schedule's end does in gin/base.gin, follows it to another number; by itself that may not
# change.
FREE_MACRO = 'n_steps'
_MACRO = re.compile(r'%([\w./]+)')


def differences(before, now):
  """Returns what differs between two of gin's operative configs and is not free to, one string for each parameter.

  Args:
    before: text of the run's config, each binding on a line of its own.
    now: text of the config that is asked for.
  """
  before, now = _bindings(before), _bindings(now)
  was, is_ = _resolved(before), _resolved(now)
  for bindings in before, now:
    bindings.pop(FREE_MACRO, None)
  followed, follows = _resolved(before), _resolved(now)
  # gin lists what has been called so far, so one text may know more parameters than the other. Another layer or corpus
  # shows where it is chosen, which both know.
  return [f'{name} was {was[name]} and is {is_[name]}' for name in sorted(was.keys() & is_.keys())
          if was[name] != is_[name] and followed[name] != follows[name]
          and name not in FREE and name.rsplit('.', 1)[-1] not in PLACES]


def of_older_versions(text):
  """Returns gin bindings that a run's own config needs, so that it has the data it began with.

  Version 0.2 and before took no splits from the names of a user's files, see data/splits.py.

  Args:
    text: of the run's config.gin, which names each parameter that the run's version had.
  """
  return [f"{corpus}.splits = 'shared'" for corpus in ('ByteCorpus', 'ImageFolder')
          if re.search(rf'\b{corpus}\b', text) and f'{corpus}.splits' not in text]


def of_all_hosts():
  """Returns what all hosts must have configured alike, as text: gin's bindings but those that say where data lie."""
  return '\n'.join(
      f'{name} = {value}' for name, value in sorted(_bindings(gin.config_str(max_line_length=ONE_LINE)).items())
      if name.rsplit('.', 1)[-1] not in PLACES)


def without_comments(text):
  """Returns a config's lines that are no comments: gin's rulers are as long as a line may be, ONE_LINE."""
  return ''.join(f'{line}\n' for line in text.splitlines() if line and not line.startswith('#'))


def _bindings(text):
  """Returns {name: value} of a config's lines."""
  return dict(line.split(' = ', 1) for line in text.splitlines() if ' = ' in line and not line.startswith('#'))


def _resolved(bindings):
  """Returns {name: value} of all bindings but macros, which are replaced by what they stand for; unknown ones stay."""
  # gin writes a macro as a binding without a dot.
  macros = {name: value for name, value in bindings.items() if '.' not in name}

  def value_of(value, depth=0):
    if depth > len(macros):
      return value
    return _MACRO.sub(lambda match: value_of(macros.get(match[1], match[0]), depth + 1), value)
  return {name: value_of(value) for name, value in bindings.items() if name not in macros}
