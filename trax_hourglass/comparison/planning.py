"""The equal budget of a comparison's runs: steps, seconds of training, or operations."""

import dataclasses

UNEQUAL = 0.05  # Share by which seconds may miss the budget before a table says so.


@dataclasses.dataclass(frozen=True)
class Budget:
  """How much each run may take.

  Attributes:
    what: 'steps', 'seconds' or 'flops'.
    amount: how many.
  """
  what: str
  amount: float

  @classmethod
  def of(cls, **budgets):
    """Returns the budget that is given, among several by name that are None.

    Raises:
      ValueError: none or more than one is given, or it is no number above 0; steps must be whole.
    """
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
      what = 'no budget' if not given else ' and '.join(f'compare.{name} = {value!r}' for name, value in given.items())
      raise ValueError(f'{what} given: set one of compare.steps, compare.seconds (of training) and compare.flops')
    (name, value), = given.items()
    if not isinstance(value, (int, float)) or not 0 < value < float('inf') or (name == 'steps' and not isinstance(value, int)):
      raise ValueError(f'compare.{name} is {value!r}: give {"a whole number" if name == "steps" else "a number"} above 0')
    return cls(name, value)

  def n_steps(self, measured):
    """Returns how many steps a model has, at least 1.

    Args:
      measured: the model's Measurement.

    Raises:
      ValueError: operations are the budget and the model's could not be counted.
    """
    if self.what == 'flops' and measured.flops_from != 'products':
      raise ValueError('its operations cannot be counted, only estimated, and too low: take compare.steps or compare.seconds as '
                       'the budget')
    one = {'steps': 1, 'seconds': measured.step_seconds, 'flops': measured.step_flops}[self.what]
    return max(1, round(self.amount / one))
