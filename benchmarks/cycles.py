"""Splits a training step's estimated cycles on a TPU by kind of operation.

    pip install 'jax[tpu]'
    python benchmarks/cycles.py --config_file gin/paper/enwik8_ablation.gin --config "fit.dtype = 'bfloat16'" [--json]

libtpu writes its estimate of each fused operation into the compiled program. Our kernels declare their own. No TPU is
needed. Operations of a loop count once per iteration.
"""

import argparse
import collections
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trax_hourglass import registry  # pylint: disable=unused-import
from trax_hourglass.planning import program_text
from trax_hourglass.planning import step_program
from trax_hourglass.planning import topologies
from trax_hourglass.runtime import gin_config
from trax_hourglass.training.settings import Settings

_COMPUTATION = re.compile(r'^%?([\w.\-]+) [^\n]*\{\n(.*?)^\}', re.MULTILINE | re.DOTALL)
_CALLS = re.compile(r'calls=%?([\w.\-]+)')
_MOVES = 'copy', 'pad', 'slice', 'dynamic-slice', 'reshape', 'transpose', 'concatenate'


def parse_arguments():
  """Returns the command line's arguments."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--config_file', action='append', default=[], help='gin file')
  parser.add_argument('--config', action='append', default=[], help='gin binding')
  parser.add_argument('--topology', default='v5e', help='TPU to compile for, as in `plan`; one device')
  parser.add_argument('--json', action='store_true', help='one JSON object on stdout')
  return parser.parse_args()


def split(text):
  """Returns {kind of operation: cycles} of a compiled program's text, most cycles first."""
  with_products = {name for name, body in _COMPUTATION.findall(text) if re.search(r' (convolution|dot)\(', body)}
  sums = collections.Counter()
  for one in program_text.instructions(text):
    called = _CALLS.search(one.text)
    if one.operation == 'custom-call':
      kind = "attention's kernels"
    elif one.operation in ('convolution', 'dot') or called and called[1] in with_products:
      kind = 'matrix products, and what is computed along with them'
    elif one.operation == 'fusion':
      kind = 'other passes of the model' if 'jvp(' in one.text else 'gradient norm and optimizer'
    else:
      kind = 'copies, padding, slices' if one.operation in _MOVES else 'the rest'
    sums[kind] += program_text.cycles([one])
  return {kind: cycles for kind, cycles in sums.most_common() if cycles}


def main():
  """Prints the split."""
  args = parse_arguments()
  topologies.prepare(args.topology, 1)
  gin_config.parse_gin(args.config_file or ['quickstart.gin'], args.config)
  program = step_program.StepProgram(Settings.read(), topologies.mesh(args.topology, 1)).traced().lower().compile()
  sums = split(program.as_text())
  if args.json:
    print(json.dumps({'topology': args.topology, 'cycles': sums}))
    return
  for kind, cycles in {**sums, 'all': sum(sums.values())}.items():
    print(f'{cycles:14,}  {kind}')


if __name__ == '__main__':
  main()
