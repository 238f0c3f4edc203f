"""Scores a run or checks its causality for `evaluate`, and prints the result."""

import dataclasses
import json

from trax_hourglass.inference import causality
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime.progress import Progress
from trax_hourglass.training import evaluate_run


def score(run, args):
  """Scores an opened run and prints the result.

  Args:
    run: a run_directory.Run in mode 'eval'.
    args: parsed arguments of `evaluate`.

  Raises:
    InputError: see `evaluate_run.evaluate`.
  """
  result = evaluate_run.evaluate(run, args.split, args.protocol, args.context, args.stride, args.max_tokens,
                                 args.batch_size)
  if not distributed.is_first():
    return
  if args.json:
    print(json.dumps(result.as_dict()))
    return
  found, unit = result.score, result.unit
  error = '' if found.standard_error is None else f' ± {found.standard_error:.4f}'
  print(f'{found.bits_per_token:.4f}{error} bits per {unit} ({found.n_tokens:,} {unit}s of the {result.split} split '
        f'scored in {found.n_windows:,} windows of {found.length:,}, context {found.context:,}, stride '
        f'{found.stride:,}; {found.tokens_per_second:,.0f} {unit}s/s; step {result.step}) of {result.checkpoint}')


def check_causality(run, args):
  """Checks that an opened run's model is causal and prints the result.

  Args:
    run: a run_directory.Run in mode 'eval'.
    args: parsed arguments of `evaluate`, of which split, batch_size and json are used.

  Raises:
    InputError: the model is not causal.
  """
  data = run.settings.corpus.split(args.split)
  length = min(getattr(data, 'example_length', None) or run.settings.length, run.settings.length, len(data))
  batch_size = run.settings.batch_size if args.batch_size is None else args.batch_size
  with Progress('changing tokens', 'token') as progress:
    progress.begin(0, length)
    found = causality.check(run.model, data.read(0, length), batch_size,
                            on_batch=lambda n_done: progress.show(n_done, length, 'checked'))
  if found.leak is not None:
    token, output = found.leak
    raise InputError(f'the model is not causal: output {output} changes with tokens {token} and later, the largest '
                     f'difference is {found.largest_difference:.1e} of the largest logit; expected outputs that depend '
                     'on earlier tokens only')
  if args.json:
    print(json.dumps({'is_causal': True, **dataclasses.asdict(found)}))
    return
  print(f'causal: no output depends on its own token or later ones, at {found.n_offsets:,} offsets of a window '
        f'(largest difference {found.largest_difference:.1e} of the largest logit) of {run.checkpoint}')
