"""Converts the equal budget of a comparison's runs to a number of steps for each row."""

import dataclasses
import statistics

from trax_hourglass.comparison import records
from trax_hourglass.comparison import rows as rows_lib
from trax_hourglass.comparison import step_cost
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime import sharding
from trax_hourglass.runtime.progress import say

_TURNS = 3  # A machine's speed varies, so with a budget in seconds all rows are timed in several rounds.


@dataclasses.dataclass(frozen=True)
class Budget:
  """Holds the budget of each run: steps, seconds or FLOPs.

  Attributes:
    what: unit of the budget, 'steps', 'seconds' or 'flops'.
    amount: number of units.
  """
  what: str
  amount: float

  @classmethod
  def of(cls, **budgets):
    """Returns the Budget of the only argument that is not None.

    Raises:
      InputError: none or more than one is given, or it is not a positive number, which must be whole for steps.
    """
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
      what = 'no budget' if not given else ' and '.join(f'compare.{name} = {value!r}' for name, value in given.items())
      raise InputError(f'{what} given: set one of compare.steps, compare.seconds (of training) and compare.flops')
    (name, value), = given.items()
    whole = name == 'steps'
    if not isinstance(value, int if whole else (int, float)) or not 0 < value < float('inf'):
      raise InputError(f'compare.{name} is {value!r}: give {"a whole number" if whole else "a number"} above 0')
    return cls(name, value)

  def n_steps(self, measured):
    """Returns the number of steps for a model, at least 1.

    Args:
      measured: the model's Measurement.

    Raises:
      InputError: the budget is in FLOPs and those of the model could not be counted.
    """
    if self.what == 'flops' and measured.flops_from != 'products':
      raise InputError('its operations cannot be counted, only estimated, and too low: take compare.steps or '
                       'compare.seconds as the budget')
    one = {'steps': 1, 'seconds': measured.step_seconds, 'flops': measured.step_flops}[self.what]
    return max(1, round(self.amount / one))


class Planner:
  """Measures the step of each row and derives the row's number of steps from the budget."""

  def __init__(self, configuration, budget, measured_steps, scored):
    """Creates the planner.

    Args:
      configuration: the comparison's Configuration.
      budget: the Budget of each run.
      measured_steps: number of timed steps.
      scored: see `records.kept`.
    """
    self._configuration, self._budget = configuration, budget
    self._measured_steps, self._scored = measured_steps, scored

  def plan(self, rows):
    """Measures each new row and writes its number of steps to its file."""
    new = [row for row in rows if 'measurement' not in records.read(row.directory / records.PLAN)]
    new.sort(key=lambda row: 'error' in records.read(row.directory / records.PLAN))
    known = next((row for row in rows if row not in new), None)
    n_turns = _TURNS if self._budget.what == 'seconds' else 1
    taken = {row.name: [] for row in new}
    again = []  # Step times of a row measured earlier, which calibrate the new rows to the earlier speed.
    for row in rows:
      if row not in new:
        self._tell_other_machine(row)
    for turn in range(n_turns if new else 0):
      if known and n_turns > 1:
        try:
          again.append(self.measure(known).step_seconds)
        except Exception as error:  # New rows are then timed without calibration.  pylint: disable=broad-except
          say(f'{known.name} could not be measured again: {records.short(error)}')
          known, again = None, []
      for row in new:
        if len(taken[row.name]) == turn:  # Else the row has failed.
          with records.kept(row, row.directory / records.PLAN, self._scored):
            taken[row.name].append(self.measure(row))
    before = records.read(known.directory / records.PLAN)['measurement']['step_seconds'] if again else 1.0
    speed = before / statistics.median(again) if again else 1.0
    for row in new:
      if len(taken[row.name]) == n_turns:
        seconds = speed * statistics.median(measured.step_seconds for measured in taken[row.name])
        with records.kept(row, row.directory / records.PLAN, self._scored) as keep:
          keep(self._plan_of(row, dataclasses.replace(taken[row.name][0], step_seconds=seconds)))

  def _tell_other_machine(self, row):
    there, here = records.read(row.directory / records.PLAN)['machine'], step_cost.machine()
    differs = [f'{name} {value!r}, here {here[name]!r}' for name, value in there.items() if value != here[name]]
    if differs:
      say(f'{row.name} was planned elsewhere, so its seconds may be others: {"; ".join(differs)}')

  def _plan_of(self, row, measured):
    run = self._configuration.configure(row, rows_lib.PROBE, seed=0)
    n_steps = self._budget.n_steps(measured)
    return {
        'measurement': dataclasses.asdict(measured), 'machine': step_cost.machine(), 'n_steps': n_steps,
        'tokens': n_steps * run.batch_size * run.length, 'unit': run.corpus.unit
    }

  def measure(self, row):
    """Returns the Measurement of a row's training step."""
    say(f'measuring {row.name}')
    run = self._configuration.configure(row, rows_lib.PROBE, seed=0)
    model = run.model(mode='train')
    windows = run.windows(run.corpus.split('train'), run.batch_size, run.length, 0,
                          getattr(model, 'vocab_size', run.corpus.vocab_size))
    return step_cost.measure(
        model, run.optimizer, next(windows), self._measured_steps, run.loss_chunk,
        mesh=sharding.over_devices(run.n_devices), dtype=run.dtype, accumulate=run.accumulate,
        shard_weights=run.shard_weights)
