"""The paper's comparisons: models on the same data, batches, schedule and evaluation, under an equal budget.

A comparison is a gin configuration of one run, and rows, each of which changes something about it. Every row is first
measured, which says how many steps it has for its budget, and then trained for these, once with each seed, in a run
directory of its own. The folder of a comparison:

    comparison.gin              its configuration
    ROW/row.json                the row's settings and what was measured of a step
    ROW/seed_N/                 the run directory, and result.json when it is finished or has failed
    results.json and more       what report.py makes of all that
    compiled/                   programs, so that equal ones are compiled once

What is finished is not run again; what was cut off goes on from its last checkpoint; what has failed is tried again.
"""

import dataclasses
import functools
import gc
import json
import pathlib
import re
import sys

import gin
from trax.layers import base

from trax_hourglass import command_line
from trax_hourglass import kept_programs
from trax_hourglass import keys
from trax_hourglass import measurement
from trax_hourglass import mesh as mesh_lib
from trax_hourglass import report
from trax_hourglass import run_directory
from trax_hourglass import run_evaluation
from trax_hourglass import whole_file
from trax_hourglass.data import batches
from trax_hourglass.training import clock

CONFIG = 'comparison.gin'
_ROW, _RESULT = 'row.json', 'result.json'
_PROBE = 7  # Steps that a row is configured with before its own number is known.


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table.

  Attributes:
    name: as the user calls it.
    lines: gin lines put behind the comparison's configuration.
    weights_of: name of the row whose weights are evaluated with these lines; None for a row that is trained itself.
    directory: its folder.
    settings: all bindings of its runs, as text.
    kind: 'flat', 'hierarchical', or 'Trax' for models that are not ours.
  """
  name: str
  lines: tuple[str, ...]
  weights_of: str | None
  directory: pathlib.Path
  settings: str = ''
  kind: str = ''


def compare(output_dir,
            rows=None,
            own_rows=None,
            also_evaluate=None,
            steps=None,
            seconds=None,
            flops=None,
            seeds=(0,),
            warmup=None,
            n_evaluations=20,
            measured_steps=10,
            split='valid',
            protocol=None,
            max_tokens=None,
            paper=None):
  """Trains and evaluates what the rows say, or goes on with it, and writes tables and plots into `output_dir`.

  gin holds the configuration that all rows share; `n_steps` must be a macro of it, as in gin/base.gin.

  Args:
    output_dir: the comparison's folder.
    rows: {name: gin lines}, a string or a list of them, such as "Hourglass.hierarchy = '8@1'" or "include 'FILE.gin'".
    own_rows: more of the same, to put beside the rows of a file that is included.
    also_evaluate: {name: (row, gin lines)}, rows that train nothing and evaluate another row's weights with other lines.
    steps: the budget of each run: so many steps;
    seconds: or seconds of training, turned into steps by the time that a step took beforehand;
    flops: or floating-point operations. One of the three.
    seeds: of weights, dropout and windows; each row is trained with each.
    warmup: share of a row's steps in which the learning rate rises, bound to the macro `warmup_steps`; None leaves it alone.
    n_evaluations: points of each learning curve, and checkpoints of each run.
    measured_steps: steps that are timed.
    split: what is scored at the end,
    protocol: by which protocol, see evaluation.py; None for windows as long as in training,
    max_tokens: and how many tokens of it; None for all.
    paper: {row: bits that the paper prints}.

  Returns:
    The results, see report.py.

  Raises:
    ValueError: no rows, rows or settings that make no sense, no budget or more than one, or an output_dir with other
      results. What goes wrong while a row is measured or trained is part of its result instead.
  """
  arguments = {name: value for name, value in locals().items() if name != 'output_dir'}
  budget = _check_budget(steps=steps, seconds=seconds, flops=flops)
  _check_numbers(seeds, warmup, n_evaluations, measured_steps)
  comparison = Comparison(output_dir, budget, warmup, n_evaluations, measured_steps,
                           {'split': split, 'protocol': protocol, 'max_tokens': max_tokens}, paper or {})
  comparison.take_rows({**_checked(rows, 'rows'), **_checked(own_rows or {}, 'own_rows')}, also_evaluate or {})
  comparison.begin(arguments)
  try:
    with kept_programs.kept_in(comparison.folder / 'compiled'):
      return comparison.run(seeds)
  finally:
    comparison.configure_as_before()


class Comparison:
  """A comparison under way."""

  def __init__(self, output_dir, budget, warmup, n_evaluations, measured_steps, scored, paper):
    self.folder = pathlib.Path(output_dir).expanduser()
    self._config = gin.config_str()
    self._common = _without(self._config, 'compare').splitlines()
    self._budget, self._warmup = budget, warmup
    self._n_evaluations, self._measured_steps = n_evaluations, measured_steps
    self._scored, self._paper = scored, paper
    self.rows = []

  def take_rows(self, trained, evaluated):
    """Checks all rows before anything is run.

    Args:
      trained: {name: gin lines}.
      evaluated: {name: (name of a trained row, gin lines)}.
    """
    wanted = [(name, lines, None) for name, lines in trained.items()]
    for name, entry in evaluated.items():
      if not isinstance(entry, (tuple, list)) or len(entry) != 2 or entry[0] not in trained:
        raise ValueError(f'also_evaluate[{name!r}] is {entry!r}: give a row, of {", ".join(map(repr, trained))}, and gin '
                         'lines')
      wanted.append((name, (*_lines(trained[entry[0]]), *_lines(entry[1])), entry[0]))
    names = [name for name, *_ in wanted]
    for name in self._paper:
      if name not in names:
        raise ValueError(f'paper has bits for {name!r}, which is no row: the rows are {", ".join(map(repr, names))}')
    slugs = {}
    for name, lines, weights_of in wanted:
      slug = re.sub(r'[^A-Za-z0-9@.,+=-]+', '_', name).strip('_')
      if not slug or slug in slugs:
        raise ValueError(f'rows {slugs.get(slug, "")!r} and {name!r} would share the folder {slug!r}: give other names')
      slugs[slug] = name
      try:
        self.rows.append(self._checked_row(Row(name, _lines(lines), weights_of, self.folder / slug)))
      except (command_line.UsageError, ValueError, TypeError, base.LayerError) as error:
        text = re.sub(r' In bindings string line \d+.*', '', command_line.one_line(error))  # Of a text that nobody wrote.
        raise ValueError(f'row {name!r}: {text}') from error

  def _checked_row(self, row):
    """Returns the row with its settings and kind; raises for what can be known without running it."""
    command_line.parse_gin([], [*self._common, *row.lines])
    settings = self._settings()
    self._configure(row, _PROBE, seed=0)
    if run_directory.setting('n_steps') != _PROBE:
      raise ValueError('fit.n_steps does not follow the macro n_steps, which the budget sets: bind fit.n_steps = %n_steps, '
                       'and the schedule likewise, as gin/base.gin does')
    batches.check_sizes(run_directory.setting('batch_size'), run_directory.setting('length'))
    model = run_directory.setting('model')(mode='train')
    data = run_directory.setting('corpus').split(self._scored['split'])
    run_evaluation.window_sizes(self._scored['protocol'], None, None, run_directory.setting('length'), data.example_length)
    multiple = getattr(model, 'length_multiple', None)
    kind = 'Trax' if multiple is None else 'flat' if multiple == 1 else 'hierarchical'
    return dataclasses.replace(row, settings=settings, kind=kind)

  def _configure(self, row, n_steps, seed):
    """Parses the comparison's configuration with what is the row's own."""
    own = [f'n_steps = {n_steps}', f'fit.seed = {seed}', f'fit.eval_every = {self._every(n_steps)}',
           f'fit.checkpoint_every = {self._every(n_steps)}']
    if self._warmup is not None:
      own.append(f'warmup_steps = {round(self._warmup * n_steps)}')
    command_line.parse_gin([], [*self._common, *row.lines, *own])

  def configure_as_before(self):
    """Leaves gin as it was found."""
    command_line.parse_gin([], self._config.splitlines())

  def _every(self, n_steps):
    return -(-n_steps // self._n_evaluations)

  def _settings(self):
    """Returns what a row's results depend on, one binding a line or more; not which other rows there are, nor imports."""
    lines = _without(gin.config_str(), 'compare').splitlines()
    bindings = [line for line in lines if line and not line.startswith(('#', 'import ', 'from '))]
    further = {**self._budget, 'warmup': self._warmup, **self._scored}
    return '\n'.join([*bindings, *(f'compare.{name} = {value!r}' for name, value in further.items())])

  def begin(self, arguments):
    """Makes the folder, or checks that what is in it belongs to this comparison.

    Args:
      arguments: of `compare` by name, to be kept; gin itself would sort the rows.
    """
    if self.folder.exists() and not self.folder.is_dir():
      raise ValueError(f'output_dir {str(self.folder)!r} is a file: give a folder')
    if self.folder.exists() and any(self.folder.iterdir()) and not (self.folder / CONFIG).exists():
      raise ValueError(f'output_dir {str(self.folder)!r} holds other things than a comparison: give another folder')
    for row in self.rows:
      before = _read(row.directory / _ROW)
      if before.get('settings', row.settings) != row.settings:
        there, here = (text.splitlines() for text in (before['settings'], row.settings))
        differ = [line for line in there if line not in here] or ['(nothing)'], [line for line in here if line not in there]
        raise ValueError(f'{row.directory} holds results of other settings, {differ[0][0].strip()!r} where there is '
                         f'{(differ[1] or ["(nothing)"])[0].strip()!r} now: give another --output_dir')
    self.folder.mkdir(parents=True, exist_ok=True)
    kept = '\n'.join(f'compare.{name} = {_as_gin(value)}' for name, value in arguments.items())
    whole_file.write(self.folder / CONFIG, '\n'.join([*self._common, kept, '']))

  def run(self, seeds):
    """Measures all rows, trains and evaluates them, and writes the report after each."""
    trained = [row for row in self.rows if row.weights_of is None]
    for row in trained:
      self._attempt(row, row.directory / _ROW, 'measurement', self._measure)
    todo = [(row, seed, row.directory / f'seed_{seed}') for seed in seeds for row in self.rows]
    todo = [(row, seed, directory) for row, seed, directory in todo if 'bits' not in _read(directory / _RESULT)]
    for number, (row, seed, directory) in enumerate(todo, 1):
      _say(f'[{number}/{len(todo)}] {row.name}, seed {seed}: {self._outlook(row)}')
      self._attempt(row, directory / _RESULT, 'bits', functools.partial(self._run_once, seed, directory))
      report.write(self.folder, self._results(seeds))
    results = self._results(seeds)
    report.write(self.folder, results)
    return results

  def _attempt(self, row, path, proof, work):
    """Does a piece of work unless its result, which has the field `proof`, is there; keeps the result or the error."""
    if proof in _read(path):
      return
    kept = {'name': row.name, 'settings': row.settings}
    try:
      kept.update(work(row))
    except Exception as error:  # The other rows go on.  pylint: disable=broad-except
      kept['error'] = _short(error)
      _say(f'{row.name} failed: {kept["error"]}')
    whole_file.write(path, json.dumps(kept, indent=1))
    gc.collect()  # Trainer and compiled step hold on to each other, and to weights.

  def _measure(self, row):
    _say(f'measuring {row.name}')
    self._configure(row, _PROBE, seed=0)
    setting = run_directory.setting
    corpus, model = setting('corpus'), setting('model')(mode='train')
    windows = setting('windows', batches.RandomWindows)(
        corpus.split('train'), setting('batch_size'), setting('length'), 0, getattr(model, 'vocab_size', corpus.vocab_size))
    measured = measurement.measure(
        model, setting('optimizer'), next(windows), self._measured_steps, setting('loss_chunk', None),
        mesh=mesh_lib.over_devices(setting('n_devices', None)), dtype=setting('dtype', 'float32'),
        accumulate=setting('accumulate', 1), shard_weights=setting('shard_weights', False))
    (what, amount), = self._budget.items()
    n_steps = round(amount / {'steps': 1, 'seconds': measured.step_seconds, 'flops': measured.step_flops}[what])
    return {'measurement': dataclasses.asdict(measured), 'n_steps': max(1, n_steps),
            'tokens': max(1, n_steps) * setting('batch_size') * setting('length'), 'unit': corpus.unit}

  def _source(self, row):
    """Returns the row whose weights a row has, mostly itself."""
    return next(other for other in self.rows if other.name == (row.weights_of or row.name))

  def _outlook(self, row):
    plan = _read(self._source(row).directory / _ROW)
    if 'error' in plan:
      return 'could not be measured'
    if row.weights_of:
      return f'weights of {row.weights_of}'
    return f'{plan["n_steps"]:,} steps, about {plan["n_steps"] * plan["measurement"]["step_seconds"]:,.0f} s'

  def _run_once(self, seed, directory, row):
    source = self._source(row)
    plan, run = _read(source.directory / _ROW), source.directory / f'seed_{seed}'
    if 'error' in plan:
      raise ValueError(plan['error'])
    if row.weights_of:
      if 'bits' not in _read(run / _RESULT):
        raise ValueError(f'{row.weights_of!r} has no result')
    else:
      self._train(row, seed, plan['n_steps'], directory)
    # The configuration of the run alone, so that anyone who opens it again gets the same.
    opened = run_directory.load(run, bindings=row.lines if row.weights_of else ())
    evaluation = run_evaluation.evaluate(opened, self._scored['split'], self._scored['protocol'],
                                         max_tokens=self._scored['max_tokens'])
    sums = clock.read(run / clock.Clock.FILE)
    return {'seed': seed, 'bits': evaluation.score.bits_per_token, 'standard_error': evaluation.score.standard_error,
            'n_tokens_scored': evaluation.score.n_tokens, 'training_seconds': sums[-1][1],
            'curve': [(step, clock.at(sums, step), bits) for step, bits in report.curve(run)] if not row.weights_of else []}

  def _train(self, row, seed, n_steps, directory):
    self._configure(row, n_steps, seed)
    every = self._every(n_steps)
    stops_after = lambda step: step in (1, n_steps) or step % every == 0
    gin.get_configurable('fit')(str(directory), callbacks=[
        functools.partial(clock.Clock, path=directory / clock.Clock.FILE, stops_after=stops_after)])
    gc.collect()

  def _results(self, seeds):
    rows = []
    for row in self.rows:
      plan = _read(self._source(row).directory / _ROW)
      runs = [_read(row.directory / f'seed_{seed}' / _RESULT) for seed in seeds]
      rows.append(report.row(row.name, row.kind, row.weights_of, plan, [run for run in runs if run],
                             self._paper.get(row.name)))
    return {'budget': self._budget, **self._scored, 'seeds': list(seeds), **measurement.machine(), 'rows': rows}


def _check_budget(**budgets):
  given = {name: value for name, value in budgets.items() if value is not None}
  if len(given) != 1:
    what = 'no budget' if not given else ' and '.join(f'compare.{name} = {value!r}' for name, value in given.items())
    raise ValueError(f'{what} given: set one of compare.steps, compare.seconds (of training) and compare.flops')
  (name, value), = given.items()
  if not isinstance(value, (int, float)) or not 0 < value < float('inf') or (name == 'steps' and not isinstance(value, int)):
    raise ValueError(f'compare.{name} is {value!r}: give {"a whole number" if name == "steps" else "a number"} above 0')
  return given


def _check_numbers(seeds, warmup, n_evaluations, measured_steps):
  if not isinstance(seeds, (tuple, list)) or not seeds or len(set(seeds)) < len(seeds) or not all(
      isinstance(seed, int) and seed >= 0 for seed in seeds):
    raise ValueError(f'compare.seeds is {seeds!r}: give different whole numbers, such as (0, 1, 2)')
  for seed in seeds:
    keys.check_seed(seed)
  if warmup is not None and (not isinstance(warmup, (int, float)) or not 0 <= warmup < 1):
    raise ValueError(f'compare.warmup is {warmup!r}: give a share of the steps, at least 0 and below 1')
  for name, value in (('n_evaluations', n_evaluations), ('measured_steps', measured_steps)):
    if not isinstance(value, int) or value < 1:
      raise ValueError(f'compare.{name} is {value!r}: give a whole number above 0')


def _checked(rows, name):
  if not isinstance(rows, dict) or (not rows and name == 'rows'):
    raise ValueError(f"compare.{name} is {rows!r}: give {{name: gin lines}}, such as "
                     "{'flat': \"Hourglass.hierarchy = '8@1'\"}")
  for row, lines in rows.items():
    if not isinstance(row, str) or not isinstance(lines, (str, list, tuple)) or not all(
        isinstance(line, str) for line in lines):
      raise ValueError(f'compare.{name} has {row!r}: {lines!r}: give a name and gin lines, a string or a list of them')
  return rows


def _lines(lines):
  return tuple(lines.splitlines()) if isinstance(lines, str) else tuple(lines)


def _without(config, configurable):
  """Returns the text of a `gin.config_str` without one configurable's bindings."""
  parts = re.split(r'(?m)^(?=# Parameters for )', config)
  return ''.join(part for part in parts if not part.startswith(f'# Parameters for {configurable}:'))


def _as_gin(value):
  if not isinstance(value, dict):
    return repr(value)
  return ''.join(['{\n', *(f'    {key!r}: {entry!r},\n' for key, entry in value.items()), '}'])


def _short(error):
  text = command_line.one_line(error).split(' -------------------- For simplicity, JAX')[0]  # Its remark on tracebacks.
  return text if len(text) < 400 else f'{text[:200]} ... {text[-190:]}'


def _say(text):
  print(text, file=sys.stderr, flush=True)


def _read(path):
  """Returns what a file of JSON holds; without one, nothing, {}."""
  return json.loads(path.read_text()) if path.exists() else {}

