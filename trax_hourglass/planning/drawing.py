"""Formats a plan as text: a drawing of the hierarchy, level by level, and lines for everything else."""

from trax_hourglass.planning.sizes import readable

_WIDEST = 28  # Characters of the longest level's bar.


def short(sizes):
  """Returns the lines on the model: its drawing, parameters, and the tokens and FLOPs of a step and the run.

  Args:
    sizes: the sizes.Sizes.
  """
  return [*_levels(sizes), *_in_all(sizes)]


def whole(sizes, step=None):
  """Returns all lines of the plan.

  Args:
    sizes: the sizes.Sizes.
    step: the compiled_step.CompiledStep, or None.
  """
  padding = sizes.padded_length - sizes.length
  cache = 'none' if sizes.cache_bytes is None else f'{readable(sizes.cache_bytes)} a sequence'
  lines = [
      *short(sizes),
      f'padding       {padding} of {sizes.padded_length:,} positions ({padding / sizes.padded_length:.1%})',
      f'bytes         weights {readable(sizes.weight_bytes)}, slots {readable(sizes.slot_bytes)}, checkpoint '
      f'{readable(sizes.checkpoint_bytes)}, caches for decoding {cache}']
  return lines if step is None else [*lines, *_compiled(step)]


def _levels(sizes):
  """Returns a table line for each stack, top down and back up, with a bar as long as its sequence, and the rest."""
  if not sizes.levels:
    return []
  down = [(level, level.n_layers[0], len(level.n_layers) == 1) for level in sizes.levels]
  up = [(level, level.n_layers[-1], True) for level in sizes.levels[-2::-1]]
  lines = ['level   vectors   width   layers   parameters   FLOPs']
  for level, n_layers, tells in [*down, *up]:
    bar = '=' * max(1, round(_WIDEST * level.length / sizes.levels[0].length))
    rest = f'{_count(level.n_parameters):>10} {_percent(level.flops_share):>7}' if tells else ' ' * 18
    lines.append(f'{level.factor:>5} {level.length:>9,} {level.d_model:>7} {n_layers:>8}   {rest}   {bar:^{_WIDEST}}'
                 .rstrip())
  if sizes.resampling_parameters or sizes.resampling_flops_share:
    lines.append(f'shortening, upsampling              {_count(sizes.resampling_parameters):>10} '
                 f'{_percent(sizes.resampling_flops_share):>7}')
  rest = [sizes.n_parameters - sizes.resampling_parameters - sum(level.n_parameters for level in sizes.levels)]
  if sizes.resampling_flops_share is not None:
    rest.append(1 - sizes.resampling_flops_share - sum(level.flops_share for level in sizes.levels))
  lines.append(f'embedding, logits                   {_count(rest[0]):>10} {_percent(*rest[1:]):>7}')
  return lines


def _in_all(sizes):
  flops = ('cannot be counted: the model has loops of unknown length' if sizes.step_flops is None else
           f'{sizes.flops_per_token:.3g} a token, {sizes.step_flops:.3g} a step, '
           f'{sizes.step_flops * sizes.n_steps:.3g} the run')
  return [
      f'parameters    {sizes.n_parameters:,}',
      f'training      {sizes.n_steps:,} steps of {sizes.batch_size:,} x {sizes.length:,} tokens: {sizes.n_tokens:,}, '
      f'{sizes.tokens_per_parameter:.3g} for each parameter',
      f'FLOPs         {flops}']


def _compiled(step):
  moved = ', '.join(f'{found["count"]} {kind} of {readable(found["bytes"])}'
                    for kind, found in step.collectives.items()) or 'none'
  products = ', '.join(f'{count:,} {kind}' for kind, count in step.products.items()) or 'none that the text shows'
  bound = ('none, the maker gives no peak' if step.lower_bound_seconds is None else
           f'{step.lower_bound_seconds * 1e3:.3g} ms a step at the published peak')
  if step.estimated_cycles is not None:
    bound += f'; the compiler estimates {step.estimated_cycles:.3g} cycles of a core'
  return [
      f'compiled      for {step.n_devices} of {step.topology} in {step.compile_seconds:.0f} s',
      f'attention     by {", ".join(step.attention) or "no form of ours"}; see Hourglass.attention_form',
      f'memory        {readable(step.device_bytes)} of {readable(step.memory_bytes)} a device: arguments '
      f'{readable(step.argument_bytes)}, temporaries {readable(step.temporary_bytes)}; '
      f'{"fits" if step.fits else "does not fit"}',
      f'collectives   {moved}',
      f'products      {products}',
      f'lower bound   {bound}']


def _count(n):
  return f'{n / 1e6:.1f}M' if n >= 1e5 else f'{n:,}'


def _percent(share=None):
  return '' if share is None else f'{share:.1%}'
