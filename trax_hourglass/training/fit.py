"""Runs a whole training: from a model, a corpus and a schedule to a run directory and its bits per byte."""

import dataclasses
import functools
import signal
import time

import gin
import jax
import numpy as np
from trax import layers as tl
from trax.supervised import training

from trax_hourglass.data import batches
from trax_hourglass.data import prefetch
from trax_hourglass.inference import scoring
from trax_hourglass.inference import windows as windows_lib
from trax_hourglass.layers import boundaries
from trax_hourglass.runtime import checks
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime import errors
from trax_hourglass.runtime.errors import InputError
from trax_hourglass.runtime.progress import say
from trax_hourglass.runtime.progress import Progress
from trax_hourglass.runtime import sharding as mesh_lib
from trax_hourglass.training import branches
from trax_hourglass.training import initial_weights
from trax_hourglass.training import loop as loop_lib
from trax_hourglass.training.progress import TrainingProgress
from trax_hourglass.training.resume import RunRecord
from trax_hourglass.training import retention
from trax_hourglass.training import step as step_lib

_ON_NON_FINITE = 'stop', 'skip'
_COUNTED = 1000  # Windows, from all parts of the valid split, whose groups at boundaries are counted.
_MOST_STEPS = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Result:
  """Holds the result of a training run.

  Attributes:
    valid_bits_per_token: on the valid split, see scoring.py.
    unit: unit of a token, 'byte', 'dim' or 'token'.
    n_tokens_scored: number of scored tokens of the valid split.
    n_parameters: number of trained parameters.
    step: total number of training steps.
    seconds: duration of this call, evaluations included.
    output_dir: the run directory.
  """
  valid_bits_per_token: float
  unit: str
  n_tokens_scored: int
  n_parameters: int
  step: int
  seconds: float
  output_dir: str

  def __str__(self):
    return (f'{self.valid_bits_per_token:.4f} valid bits per {self.unit} ({self.n_tokens_scored:,} {self.unit}s '
            f'scored, {self.n_parameters:,} parameters, {self.step:,} steps, {self.seconds:.0f} s) in '
            f'{self.output_dir}')

  def as_dict(self):
    """Returns the fields; the bits are named by their unit: 'valid_bits_per_byte', or 'per_dim' or 'per_token'."""
    fields = dataclasses.asdict(self)
    return {f'valid_bits_per_{fields.pop("unit")}': fields.pop('valid_bits_per_token'), **fields}


def fit(output_dir,
        model=gin.REQUIRED,
        corpus=gin.REQUIRED,
        optimizer=gin.REQUIRED,
        schedule=gin.REQUIRED,
        n_steps=gin.REQUIRED,
        batch_size=gin.REQUIRED,
        length=gin.REQUIRED,
        windows=batches.RandomWindows,
        eval_every=1000,
        eval_batches=10,
        checkpoint_every=1000,
        keep_last=2,
        keep_every=None,
        keep_best=True,
        max_valid_tokens=None,
        dtype='float32',
        accumulate=1,
        loss_chunk=None,
        shard_weights=False,
        n_devices=None,
        on_non_finite='stop',
        stop_after=None,
        init_from=None,
        init_partial=False,
        branch_from=None,
        seed=0,
        callbacks=()):
  """Trains a model, or resumes the run in `output_dir`, and scores the model.

  On SIGTERM or Ctrl-C, training finishes the step, saves a checkpoint and stops. The same call resumes the run as
  if it had never been stopped.

  Args:
    output_dir: the run directory, for checkpoints, TensorBoard events, config and versions. All hosts share it.
    model: function of `mode` that returns a language model, tokens (B, L) -> logits (B, L, V).
    corpus: object with `split(name)`, `vocab_size` and `unit`, such as a ByteCorpus.
    optimizer: Trax optimizer.
    schedule: learning-rate schedule, a function step -> learning rate.
    n_steps: steps to train, counted from the start of the run.
    batch_size: B, sequences per step over all hosts.
    length: L, tokens per sequence.
    windows: class that selects sequences from the train split, such as batches.RandomWindows or batches.Epochs.
    eval_every: steps between evaluations on a fixed sample of the valid split.
    eval_batches: number of batches in the sample, whose windows come from all parts of the split.
    checkpoint_every: steps between checkpoints; the last step is always saved.
    keep_last: number of newest checkpoints to keep.
    keep_every: checkpoints at multiples of this step are kept forever and exported for Trax; None for none.
    keep_best: whether to also keep the checkpoint with the best evaluation on the valid split.
    max_valid_tokens: number of tokens of the valid split to score at the end; None for all.
    dtype: type of matrix products and activations, 'float32' or 'bfloat16'; see training/step.py.
    accumulate: number of micro-batches per step, whose gradients are accumulated to save memory.
    loss_chunk: tokens of a sequence whose logits exist at the same time, for large vocabularies; None for all.
    shard_weights: whether each device holds only its shard of weights and optimizer slots (FSDP).
    n_devices: number of devices to train on, equally many on each host; None for all.
    on_non_finite: reaction to a loss or gradient that is not finite: 'stop', or 'skip' fewer than ten steps in a row.
    stop_after: evaluations in a row without improvement after which training ends early; None for never.
    init_from: source of a new run's weights: a run directory, of which the newest checkpoint is read, a `.safetensors`
      or `.pkl.gz` file, ours or the authors', or the name of a pretrained model. None draws the weights.
      A resumed run ignores `init_from`.
    init_partial: whether to take only the weights that fit the model by name and shape, and draw the rest.
    branch_from: (run directory, step) of the checkpoint, optimizer slots included, that a new run starts from. The
      new run may change what a resumed run may change, such as `n_steps`. None for a run from step 0.
    seed: seed of weights, dropout and windows.
    callbacks: further callbacks of Trax's loop, which are functions of the loop.

  Returns:
    The Result.

  Raises:
    InputError: sizes that do not fit the corpus, tokens outside the vocabulary, a number below 1, an invalid plug-in
      or reference, an output_dir that is a file, or hosts with different settings or data.
  """
  started = time.monotonic()
  checks.check_sizes(n_steps=n_steps, eval_every=eval_every, eval_batches=eval_batches,
                     checkpoint_every=checkpoint_every, batch_size=batch_size, length=length,
                     max_valid_tokens=1 if max_valid_tokens is None else max_valid_tokens,
                     stop_after=1 if stop_after is None else stop_after)
  initial_weights.check(init_from, init_partial)
  branches.check(branch_from, init_from, n_steps)
  if n_steps > _MOST_STEPS:
    raise InputError(f'n_steps is {n_steps}: give {_MOST_STEPS:,} at most, as many as the device counts')
  for name, value, is_right, example in (
      ('model', model, callable(model), '@Hourglass'), ('windows', windows, callable(windows), '@RandomWindows'),
      ('schedule', schedule, callable(schedule), '@WarmupCosine()'),
      ('corpus', corpus, hasattr(corpus, 'vocab_size'), '@ByteCorpus()'),
      ('optimizer', optimizer, hasattr(optimizer, 'tree_init'), '@trax.optimizers.Adam()')):
    # A class has the attributes too, but is no instance.
    if not is_right or name in ('corpus', 'optimizer') and isinstance(value, type):
      raise InputError(f'{name} is {value!r}: give a reference such as {example}')
  _check_schedule(schedule)
  _check_optimizer(optimizer)
  mesh = mesh_lib.over_devices(n_devices)
  step_lib.check_options(batch_size, mesh.size, dtype, accumulate)
  if on_non_finite not in _ON_NON_FINITE:
    raise InputError(f'on_non_finite is {on_non_finite!r}: choose one of {", ".join(map(repr, _ON_NON_FINITE))}')
  kept = retention.Kept(keep_last, keep_every, keep_best)
  with distributed.together('reading the data'):
    valid = corpus.split('valid')
    if not len(valid):
      raise InputError('the valid split is empty: give a larger corpus')
    train_model, eval_model = model(mode='train'), model(mode='eval')
    vocab_size = getattr(train_model, 'vocab_size', corpus.vocab_size)
    windows = prefetch.Prefetched(windows(corpus.split('train'), batch_size, length, seed, vocab_size,
                                          jax.process_index(), jax.process_count()))
    sample = next(windows)
    scorer = scoring.Scorer(eval_model, mesh, loss_chunk)

  def evaluate(weights, state, check_stop):
    score = scorer.score(weights, state, valid, batch_size, length, max_windows=eval_batches * batch_size,
                         on_batch=lambda *_: check_stop())
    return score.bits_per_token

  with RunRecord(output_dir, corpus, vocab_size, kept, branch_from,
                 on_failure=lambda *failure: loop.save_failed(*failure),
                 on_written=lambda step: loop.saved(step)) as record:
    windows.step = record.step or 0
    loop = loop_lib.Loop(
        train_model,
        training.TrainTask(windows, tl.WeightedCategoryCrossEntropy(), optimizer, lr_schedule=schedule,
                           n_steps_per_checkpoint=checkpoint_every, sample_batch=sample),
        eval_model,
        evaluate,
        random_seed=seed,
        record=record,
        mesh=mesh,
        loss_chunk=loss_chunk,
        trainer_options={'dtype': dtype, 'accumulate': accumulate, 'shard_weights': shard_weights,
                         'skip_non_finite': on_non_finite == 'skip'},
        checkpoint_at=lambda step: step % checkpoint_every == 0 or bool(keep_every) and step % keep_every == 0,
        eval_at=lambda step: step == 1 or step % eval_every == 0 or step == n_steps,
        stop_after=stop_after,
        begin_with=init_from and functools.partial(
            initial_weights.take, init_from=init_from, init_partial=init_partial),
        export_at=lambda step: bool(keep_every) and step % keep_every == 0,
        callbacks=[functools.partial(TrainingProgress, n_steps=n_steps, tokens_per_step=batch_size * length,
                                     unit=corpus.unit),
                   *callbacks])
    if distributed.is_first() and loop.step < n_steps:
      _tell(corpus, valid, train_model, length)
    if distributed.is_first() and loop.step > n_steps:
      say(f'the run is at step {loop.step:,} already, and n_steps is {n_steps:,}: nothing to train')
    loop.run(max(0, n_steps - loop.step))
  windows.close()
  if loop.stopped_by:
    if distributed.is_first():
      say(f'stopped at step {loop.step}, which is saved: the same command resumes from there')
    raise KeyboardInterrupt if loop.stopped_by == signal.SIGINT else SystemExit(128 + loop.stopped_by)
  if loop.step < n_steps and distributed.is_first():
    say(f'ended at step {loop.step:,}: no better evaluation among the last {stop_after}')

  with Progress('scoring the valid split', corpus.unit, is_shown=distributed.is_first()) as progress:
    result = scorer.score(train_model.weights, train_model.state, valid, batch_size, length,
                          max_tokens=max_valid_tokens, on_batch=scoring.shown_by(progress, corpus.unit))
  return Result(
      valid_bits_per_token=result.bits_per_token,
      unit=corpus.unit,
      n_tokens_scored=result.n_tokens,
      n_parameters=sum(w.size for w in jax.tree.leaves(train_model.weights)),
      step=loop.step,
      seconds=time.monotonic() - started,
      output_dir=str(output_dir))


def _tell(corpus, valid, model, length):
  """Prints a summary of the corpus and the number of groups at boundaries."""
  if getattr(corpus, 'summary', None):
    say(corpus.summary)
  count_groups = getattr(model, 'count_groups', None)
  if count_groups is not None:
    sizes = windows_lib.sizes(length, example_length=valid.example_length)
    chosen = windows_lib.plan(len(valid), *sizes, valid.example_length)[0].spread(_COUNTED)
    tokens, *_ = next(chosen.batches(valid, len(chosen.starts)))
    say(boundaries.told(count_groups(tokens)))


def _check_schedule(schedule):
  try:
    float(schedule(1))
  except (TypeError, ValueError) as error:
    if errors.users_frames(error):
      raise
    raise InputError(f'schedule is {schedule!r}, which gives no learning rate for a step ({error}): give a reference '
                     'such as @WarmupCosine()') from None


def _check_optimizer(optimizer):
  for name, value in optimizer.opt_params.items():
    if np.shape(value):
      raise InputError(f'{name} of the optimizer is {np.asarray(value).tolist()}: give a number')
  clip = getattr(optimizer, '_clip_grad_norm', None)
  whole = isinstance(clip, int) and abs(clip) >= 2**31  # JAX takes whole numbers as int32.
  if clip is not None and (not isinstance(clip, (int, float)) or whole):
    raise InputError(f'clip_grad_norm of the optimizer is {clip!r}: give a number{", such as 1e10," * whole} or None')
