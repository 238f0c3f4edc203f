"""Configures the rows of a comparison from the shared configuration and checks all rows before any run."""

import dataclasses
import pathlib
import re

import gin
import jax
import numpy as np
from trax import shapes

from trax_hourglass.comparison import report
from trax_hourglass.runtime import checks
from trax_hourglass.runtime import errors
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import gin_config
from trax_hourglass.training import evaluate_run
from trax_hourglass.training.settings import Settings

PROBE = 7  # Steps in a row's configuration before its own number is known.
_TAKEN = 'comparison.gin', 'compare.lock', *report.FILES  # Reserved names in a comparison's folder.


@dataclasses.dataclass(frozen=True)
class Row:
  """Holds a row of the table.

  Attributes:
    name: name given by the user.
    lines: gin lines appended to the comparison's configuration.
    weights_of: name of the row whose weights are evaluated with these lines; None for a trained row.
    directory: folder of the row.
    settings: all settings that the weights depend on, as text.
    kind: 'flat', 'hierarchical', or 'Trax' for other models.
  """
  name: str
  lines: tuple[str, ...]
  weights_of: str | None
  directory: pathlib.Path
  settings: str = ''
  kind: str = ''


class Configuration:
  """Holds the configuration shared by all rows of a comparison, read from gin.

  Attributes:
    common: gin lines, without those of `compare`.
  """

  def __init__(self, budget, warmup, n_evaluations):
    """Reads gin's current configuration.

    Args:
      budget: the Budget of each run.
      warmup: share of the steps in which the learning rate rises, or None.
      n_evaluations: number of evaluations and checkpoints of each run.
    """
    self._config = gin.config_str()
    self.common = _bindings(_without(self._config, 'compare'))
    self._budget, self._warmup, self._n_evaluations = budget, warmup, n_evaluations

  def rows(self, trained, evaluated, folder, split, protocol):
    """Returns all Rows.

    Args:
      trained: {name: gin lines}.
      evaluated: {name: (name of a trained row, gin lines)}.
      folder: folder of the comparison.
      split: the split to score at the end.
      protocol: protocol of the final evaluation.

    Raises:
      InputError: a row is invalid, or two rows would share a folder.
    """
    if not isinstance(evaluated, dict) or not all(isinstance(name, str) for name in evaluated):
      raise InputError(f'compare.also_evaluate is {evaluated!r}: give {{name: (row, gin lines)}}')
    wanted = [(name, _lines(lines), None) for name, lines in trained.items()]
    for name, entry in evaluated.items():
      is_pair = isinstance(entry, (tuple, list)) and len(entry) == 2
      if not is_pair or entry[0] not in list(trained) or not _are_lines(entry[1]):
        raise InputError(f'also_evaluate[{name!r}] is {entry!r}: give a row, of {", ".join(map(repr, trained))}, and '
                         'gin lines')
      wanted.append((name, (*_lines(trained[entry[0]]), *_lines(entry[1])), entry[0]))
    slugs, rows = {}, []
    for name, lines, weights_of in wanted:
      slug = re.sub(r'[^A-Za-z0-9@.,+=-]+', '_', name).strip('_')
      if slug.startswith('.') or slug.lower() in _TAKEN:
        raise InputError(f'row {name!r} would have the folder {slug!r}, a comparison\'s own: give another name')
      if not slug or slug in slugs:
        raise InputError(f'rows {slugs.get(slug, "")!r} and {name!r} would share the folder {slug!r}: give other names')
      slugs[slug] = name
      try:
        rows.append(self._checked(Row(name, lines, weights_of, folder / slug), split, protocol))
      except Exception as error:  # Models may raise anything.  pylint: disable=broad-except
        began = errors.cause(error)
        if errors.users_frames(began):
          raise  # A user's plug-in, whose traceback is needed.
        text = re.sub(r' In bindings string line \d+.*', '', errors.one_line(began))  # A position in generated text.
        raise InputError(f'row {name!r}: {text or type(began).__name__}') from error
    return rows

  def _checked(self, row, split, protocol):
    """Returns the row with its settings and kind; raises all errors that show without running the row."""
    gin_config.parse_gin([], row.lines, self.common)
    further = {self._budget.what: self._budget.amount, 'warmup': self._warmup}
    bindings = [line for line in _bindings(_without(gin.config_str(), 'compare'))
                if not line.startswith(('import ', 'from '))]
    settings = '\n'.join([*bindings, *(f'compare.{name} = {value!r}' for name, value in further.items())])
    counts_steps = self._budget.what == 'steps'
    n_steps = self._budget.amount if counts_steps else PROBE
    run = self.configure(row, n_steps, seed=0)
    if run.n_steps != n_steps:
      raise InputError('fit.n_steps does not follow the macro n_steps, which the budget sets: bind fit.n_steps = '
                       '%n_steps, and the schedule likewise, as gin/base.gin does')
    self._check_schedule()
    if counts_steps:
      _ = run.schedule  # Raises if the warm-up is too long.
    checks.check_sizes(batch_size=run.batch_size, length=run.length)
    model = run.model(mode='train')
    data = run.corpus.split(split)
    length, _ = evaluate_run.window_sizes(protocol, None, None, run.length, data.example_length)
    multiple = getattr(model, 'length_multiple', None)
    kind = 'Trax' if multiple is None else 'flat' if multiple == 1 else 'hierarchical'
    if kind == 'Trax':
      _check_length(run.model(mode='eval'), length)
    return dataclasses.replace(row, settings=settings, kind=kind)

  def _check_schedule(self):
    """Raises InputError if the length or warm-up of the schedule in gin does not follow the budget."""
    lines = _bindings(gin.config_str(max_line_length=1 << 20))  # gin wraps longer lines.
    bound = dict(line.split(' = ', 1) for line in lines if ' = ' in line)
    fixed = [name for name, value in bound.items() if name.endswith('.n_steps') and value != '%n_steps']
    is_the_budget = self._budget.what == 'steps' and f'n_steps = {self._budget.amount}' in self.common
    if fixed and not is_the_budget:  # Else the number was written for this budget.
      raise InputError(f'{fixed[0]} is {bound[fixed[0]]} for every budget: bind {fixed[0]} = %n_steps')
    if self._warmup is not None and '%warmup_steps' not in bound.values():
      raise InputError(f'compare.warmup is {self._warmup} and no schedule takes the macro warmup_steps, which it sets: '
                       'bind WarmupCosine.warmup_steps = %warmup_steps, say, or leave compare.warmup alone')

  def configure(self, row, n_steps, seed):
    """Parses the comparison's configuration with the row's lines, and returns the Settings of the row's run."""
    every = self.every(n_steps)
    own = [f'n_steps = {n_steps}', f'fit.seed = {seed}', f'fit.eval_every = {every}', f'fit.checkpoint_every = {every}']
    if self._warmup is not None:
      own.append(f'warmup_steps = {round(self._warmup * n_steps)}')
    gin_config.parse_gin([], [], [*self.common, *row.lines, *own])
    return Settings.read()

  def configure_as_before(self):
    """Restores gin's original configuration."""
    gin_config.parse_gin([], [], self._config.splitlines())

  def every(self, n_steps):
    """Returns the number of steps between evaluations of a run of `n_steps` steps."""
    return -(-n_steps // self._n_evaluations)


def _check_length(model, length):
  """Raises InputError if a model cannot score windows of a length, which may exceed the training length."""
  def run(key, tokens):
    weights, state = model.init(shapes.signature(tokens), rng=key)
    return model.pure_fn(tokens, weights, state, key)
  try:
    jax.eval_shape(run, jax.ShapeDtypeStruct((2,), np.uint32), jax.ShapeDtypeStruct((1, length), np.int32))
  except Exception as error:  # Models may raise anything.  pylint: disable=broad-except
    raise InputError(f'it does not take windows of {length} tokens, in which it would be scored '
                     f'({errors.one_line(error)})'
                     ) from error


def check_rows(rows, name):
  """Returns rows, {name: gin lines}, or raises InputError if they have another form.

  Args:
    rows: the given value.
    name: name of the parameter.
  """
  if not isinstance(rows, dict) or (not rows and name == 'rows'):
    raise InputError(f"compare.{name} is {rows!r}: give {{name: gin lines}}, such as "
                     "{'flat': \"Hourglass.hierarchy = '8@1'\"}")
  for row, lines in rows.items():
    if not isinstance(row, str) or not _are_lines(lines):
      raise InputError(f'compare.{name} has {row!r}: {lines!r}: give a name and gin lines, a string or a list of them')
  return rows


def chosen(names, rows, evaluated, paper):
  """Returns the rows with the given names, with their entries of `evaluated` and `paper`.

  Args:
    names: names of rows; None for all.
    rows: {name: gin lines}.
    evaluated: {name: (row, gin lines)}, not checked yet.
    paper: {name of a row of either: bits}, not checked yet.

  Raises:
    InputError: no names, or unknown names.
  """
  if names is None:
    return rows, evaluated, paper
  if not isinstance(names, (tuple, list)) or not names or not all(name in list(rows) for name in names):
    raise InputError(f'compare.only is {names!r}: give some of the rows {", ".join(map(repr, rows))}, as a tuple')
  gone = [name for name in rows if name not in names]
  if isinstance(evaluated, dict):
    gone += [
        name for name, entry in evaluated.items() if isinstance(entry, (tuple, list)) and entry and entry[0] in gone
    ]
  return tuple({name: value for name, value in table.items() if name not in gone} if isinstance(table, dict) else table
               for table in (rows, evaluated, paper))


def _are_lines(lines):
  return isinstance(lines, (str, list, tuple)) and all(isinstance(line, str) for line in lines)


def _lines(lines):
  return tuple(lines.splitlines()) if isinstance(lines, str) else tuple(lines)


def _without(config, configurable):
  """Returns the text of a `gin.config_str` without the bindings of one configurable."""
  parts = re.split(r'(?m)^(?=# Parameters for )', config)
  return ''.join(part for part in parts if not part.startswith(f'# Parameters for {configurable}:'))


def _bindings(config):
  """Returns the lines of a `gin.config_str` without comments, whose rulers are as long as its longest line."""
  return [line for line in config.splitlines() if line and not line.startswith('#')]
