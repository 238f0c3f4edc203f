"""Times our training step beside those of PyTorch models: lucidrains' Hourglass, and a flat GPT with fused attention.

    pip install torch hourglass-transformer-pytorch==0.0.6
    python benchmarks/peers.py [--json] [--length 2046] [--batch 1] [--dropout 0.1] [--turns 5] [--models ours,...]

    ours                            `--hierarchy` with relative attention and attention resampling
    lucidrains                      the same hierarchy: learned positions, resampling within groups, plain attention
    flat_relative, flat_rotary      our flat model with as many blocks
    gpt                             as many flat blocks, learned positions, PyTorch's `scaled_dot_product_attention`

Models alternate in one process (A B C A B C ...) and share the machine's cores. Seconds are medians over the turns
after the first. A step is forward, backward and Adam in float32, on bytes, with the same dropout rate in all models.
"""

import argparse
import json
import os
import statistics
import sys
import time

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # Otherwise PyTorch's threads spin while XLA's threads work.

import subjects  # pylint: disable=wrong-import-position

import jax  # pylint: disable=wrong-import-position
import numpy as np  # pylint: disable=wrong-import-position
from trax import layers as tl  # pylint: disable=wrong-import-position
from trax import optimizers  # pylint: disable=wrong-import-position
from trax import shapes  # pylint: disable=wrong-import-position

from trax_hourglass import registry  # pylint: disable=wrong-import-position
from trax_hourglass.models import hierarchy as hierarchy_lib  # pylint: disable=wrong-import-position
from trax_hourglass.training import step as step_lib  # pylint: disable=wrong-import-position

_RATE = 4e-4


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--hierarchy', default='2@1 4@3 2@1', help='three parts')
  parser.add_argument('--d_model', type=int, default=512)
  parser.add_argument('--n_heads', type=int, default=8)
  parser.add_argument('--length', type=int, default=2046, help='tokens; a multiple of the factor')
  parser.add_argument('--batch', type=int, default=1)
  parser.add_argument('--dropout', type=float, default=0.1)
  parser.add_argument('--turns', type=int, default=5)
  parser.add_argument('--models', default=','.join(MODELS), help='models to measure, comma-separated')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  args = parser.parse_args()
  args.models = args.models.split(',')
  if not set(args.models) <= set(MODELS):
    parser.error(f'--models: give some of {",".join(MODELS)}')
  return args


def ours(hierarchy, **options):
  """Returns a function (args, tokens) -> (function that runs a step and returns its loss, number of parameters)."""
  def make(args, tokens):
    text = args.hierarchy if hierarchy is None else subjects.flat_hierarchy(args.hierarchy)
    model = registry.Hourglass(256, text, args.d_model, 4 * args.d_model, args.n_heads, args.dropout,
                               **{name: getattr(registry, value) for name, value in options.items()})
    layer = tl.Serial(model, tl.WeightedCategoryCrossEntropy())
    batch = tokens, tokens, np.ones(tokens.shape, np.float32)
    layer.init(shapes.signature(batch))
    optimizer = optimizers.Adam(_RATE)
    optimizer.tree_init(layer.weights)
    trainer = step_lib.Trainer(layer, optimizer)

    def step(number):
      loss, _ = trainer.one_step(batch, np.array([0, number], np.uint32), number, _RATE)
      jax.block_until_ready(trainer.slots)
      return float(loss)
    return step, sum(np.size(w) for w in jax.tree.leaves(model.weights))
  return make


def by_torch(make_model):
  """Returns the same as `ours` for a PyTorch model, given a function (args) -> module (B, L) -> logits (B, L, V)."""
  def make(args, tokens):
    import torch  # pylint: disable=g-import-not-at-top
    torch.manual_seed(0)
    model = make_model(args)
    for module in model.modules():  # lucidrains' model has dropout layers, but no setting for their rate.
      if isinstance(module, torch.nn.Dropout):
        module.p = args.dropout
    adam = torch.optim.Adam(model.parameters(), lr=_RATE)
    tokens = torch.from_numpy(tokens.astype(np.int64))

    def step(number):
      del number
      adam.zero_grad()
      before = torch.nn.functional.pad(tokens, (1, -1))
      loss = torch.nn.functional.cross_entropy(model(before).flatten(0, 1), tokens.flatten())
      loss.backward()
      adam.step()
      return loss.item()
    return step, sum(p.numel() for p in model.parameters())
  return make


def lucidrains(args):
  """Returns hourglass_transformer_pytorch's model."""
  from hourglass_transformer_pytorch import HourglassTransformerLM  # pylint: disable=g-import-not-at-top
  outer, inner = hierarchy_lib.parse(args.hierarchy)
  return HourglassTransformerLM(
      num_tokens=256, dim=args.d_model, max_seq_len=args.length, heads=args.n_heads,
      dim_head=args.d_model // args.n_heads, depth=(outer.n_before, inner.n_before + inner.n_after, outer.n_after),
      shorten_factor=inner.shorten_factor, updown_sample_type='linear')


def gpt(args):
  """Returns a flat pre-norm decoder with PyTorch's fused attention and learned positions."""
  import torch  # pylint: disable=g-import-not-at-top
  from torch import nn  # pylint: disable=g-import-not-at-top

  class Attention(nn.Module):
    """Computes causal self-attention."""

    def __init__(self):
      super().__init__()
      self.qkv, self.out = nn.Linear(args.d_model, 3 * args.d_model), nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
      heads = lambda y: y.unflatten(-1, (args.n_heads, -1)).transpose(1, 2)
      y = nn.functional.scaled_dot_product_attention(
          *map(heads, self.qkv(x).chunk(3, dim=-1)), is_causal=True, dropout_p=args.dropout)
      return self.out(y.transpose(1, 2).flatten(2))

  class Block(nn.Module):
    """Applies attention and a feed-forward layer, each with its residual."""

    def __init__(self):
      super().__init__()
      width = args.d_model
      self.attention = nn.Sequential(nn.LayerNorm(width), Attention(), nn.Dropout())
      self.feed_forward = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU('tanh'),
                                        nn.Dropout(), nn.Linear(4 * width, width), nn.Dropout())

    def forward(self, x):
      x = x + self.attention(x)
      return x + self.feed_forward(x)

  class GPT(nn.Module):
    """Applies embeddings, blocks and the logits layer."""

    def __init__(self):
      super().__init__()
      self.tokens, self.places = nn.Embedding(256, args.d_model), nn.Embedding(args.length, args.d_model)
      n_blocks = int(subjects.flat_hierarchy(args.hierarchy).partition('@')[0])
      self.blocks = nn.Sequential(*(Block() for _ in range(n_blocks)), nn.LayerNorm(args.d_model))
      self.logits = nn.Linear(args.d_model, 256)

    def forward(self, tokens):
      return self.logits(self.blocks(self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))))

  return GPT()


MODELS = {'ours': ours(None), 'lucidrains': by_torch(lucidrains), 'flat_relative': ours('flat'),
          'flat_rotary': ours('flat', vanilla_attention='CausalRotaryAttention'), 'gpt': by_torch(gpt)}
RATIOS = ('ours', 'lucidrains'), ('flat_relative', 'gpt'), ('flat_rotary', 'gpt')


def measure(args):
  """Returns {model: {'parameters', 'step_seconds', 'spread', 'last_loss'}} and the ratios of RATIOS."""
  tokens = np.random.RandomState(0).randint(0, 256, (args.batch, args.length)).astype(np.int32)
  made = {name: MODELS[name](args, tokens) for name in args.models}
  seconds = {name: [] for name in made}
  losses = {}
  for turn in range(1, args.turns + 2):
    for name, (step, _) in made.items():
      started = time.perf_counter()
      losses[name] = step(turn)
      seconds[name].append(time.perf_counter() - started)
      print(f'turn {turn} {name}: {seconds[name][-1]:.2f} s', file=sys.stderr)
  middle = {name: statistics.median(times[1:]) for name, times in seconds.items()}
  models = {name: {'parameters': made[name][1], 'step_seconds': middle[name],
                   'spread': max(times[1:]) - min(times[1:]), 'last_loss': losses[name]}
            for name, times in seconds.items()}
  ratios = {f'step_time_ratio_{a}_over_{b}': middle[a] / middle[b] for a, b in RATIOS if {a, b} <= set(middle)}
  return {**subjects.machine(), 'settings': vars(args), 'models': models, **ratios}


def main():
  """Prints the results."""
  args = parse_arguments()
  report = measure(args)
  if args.json:
    print(json.dumps(report))
    return
  rows = [{'model': name, **row} for name, row in report['models'].items()]
  print(subjects.markdown(rows, ('model', 'parameters', 'step_seconds', 'spread', 'last_loss')), '\n')
  print('\n'.join(f'{name}: {value:.2f}' for name, value in report.items() if '_ratio_' in name))


if __name__ == '__main__':
  main()
