"""Parses the text of compiled XLA programs: counts collectives and matrix products, including iterations of loops.

The text is `compiled.as_text()` of any platform, with one instruction per line:

    %name = f32[8,512]{1,0} all-reduce(%operand, ...), attribute=..., calls=%computation
"""

import collections
import dataclasses
import math
import re

COLLECTIVES = 'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute'
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$')
_ARRAY = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\]')
_CALLED = re.compile(r'\b(?:calls|to_apply|body)=%?([\w.\-]+)|\bbranch_computations=\{([^}]*)\}|'
                     r'\b(?:true|false)_computation=%?([\w.\-]+)')
_TRIPS = re.compile(r'known_trip_count\D*(\d+)')
_CONDITION = re.compile(r'condition=%?([\w.\-]+)')
_CHANNEL = re.compile(r'channel_id=(\d+)')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_BUNDLES = re.compile(r'"bundles":"(\d+)"')
_METADATA = re.compile(r'kernel_metadata=\{\s*([^{}]*?)\s*\}')  # The only part that spans several lines.
_STARTS = re.compile(r'-start$')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """Holds an instruction and how often it runs.

  Attributes:
    operation: name of the operation, such as 'dot'; an asynchronous 'NAME-start' has the name 'NAME'.
    arrays: ((type, shape), ...) of the results, such as (('f32', (8, 512)),).
    factors: ((type, shape), ...) of the operands.
    times: number of executions per run of the program.
    text: the rest of the line.
  """
  operation: str
  arrays: tuple
  factors: tuple
  times: int
  text: str

  @property
  def n_bytes(self):
    """Returns the bytes of the results, without the operands that an asynchronous start also returns."""
    arrays = self.arrays[len(self.arrays) // 2:] if self.text.startswith('start') else self.arrays
    return sum(math.prod(shape) * _bytes(kind) for kind, shape in arrays)


def instructions(text):
  """Returns the Instructions of a program's text, including those of loops and called computations."""
  computations, entry = _parse(text)
  found = []

  def walk(name, times):
    arrays = {name: of for name, of, *_ in computations[name]}
    for _, of, operation, rest in computations[name]:
      operands = re.findall(r'%([\w.\-]+)', rest.split(')', 1)[0])
      factors = tuple(array for operand in operands for array in arrays.get(operand, ()))
      is_start = _STARTS.search(operation)
      found.append(Instruction(_STARTS.sub('', operation), of, factors, times, ('start ' if is_start else '') + rest))
      trips = _trips(computations, rest) if operation == 'while' else 1
      for one, several, other in _CALLED.findall(rest):
        for called in (one, other, *(part.strip().lstrip('%') for part in several.split(','))):
          if called in computations and operation not in ('all-reduce', 'reduce', 'reduce-scatter', 'scatter', 'sort'):
            walk(called, times * trips)

  walk(entry, 1)
  return found


def collectives(found):
  """Returns {kind: {'count', 'bytes'}} of the collectives, for each kind that occurs."""
  counts = {}
  for one in moving(found):
    of_kind = counts.setdefault(one.operation, {'count': 0, 'bytes': 0})
    of_kind['count'] += one.times
    of_kind['bytes'] += one.times * one.n_bytes
  return counts


def moving(found):
  """Returns the collectives among Instructions, one per channel.

  TPUs spread a collective over other work, as several instructions on one channel.
  """
  by_channel, others = {}, []
  for one in found:
    channel = _CHANNEL.search(one.text)
    if one.operation not in COLLECTIVES:
      continue
    if channel is None:
      others.append(one)
    elif channel[1] not in by_channel or one.times < by_channel[channel[1]].times:
      by_channel[channel[1]] = one
  return [*by_channel.values(), *others]


def products(found):
  """Returns a Counter of matrix products by type, such as 'bf16 x bf16 -> f32'."""
  counts = collections.Counter()
  for one in found:
    if one.operation in ('dot', 'convolution') and len(one.factors) > 1:
      counts[f'{one.factors[0][0]} x {one.factors[1][0]} -> {one.arrays[0][0]}'] += one.times
  return counts


def cycles(found):
  """Returns the TPU core cycles of Instructions: the compiler's estimates plus the bundles declared by our kernels."""
  total = 0
  for one in found:
    declared = _BUNDLES if one.operation == 'custom-call' else _CYCLES
    total += one.times * sum(map(int, declared.findall(one.text)))
  return total


def _trips(computations, rest):
  """Returns a loop's iterations: the known trip count, else the constant in its condition, else 1."""
  if found := _TRIPS.search(rest):
    return int(found[1])
  condition = computations.get(_CONDITION.search(rest)[1], ())
  constants = [int(number[1]) for _, _, operation, of in condition
               if operation == 'constant' and (number := re.match(r'(\d+)\)', of))]
  return max(constants, default=1)


def _parse(text):
  """Returns ({computation: [(name, arrays, operation, rest)]}, name of the entry computation)."""
  computations, entry, current = {}, None, None
  for line in _METADATA.sub(r'kernel_metadata={\1}', text).splitlines():
    if line and not line[0].isspace():
      head = _COMPUTATION.match(line)
      current = computations.setdefault(head[2], []) if head and not line.startswith('HloModule') else None
      if current is not None and head[1]:
        entry = head[2]
    elif current is not None and (found := _INSTRUCTION.match(line)):
      current.append((found[1], _arrays(found[2]), found[3], found[4]))
  return computations, entry


def _arrays(text):
  return tuple((kind, tuple(map(int, shape.split(','))) if shape else ()) for kind, shape in _ARRAY.findall(text))


def _bytes(kind):
  """Returns the bytes of an element, from the number of bits in XLA's type name."""
  bits = re.search(r'\d+', kind)
  return max(1, int(bits[0]) // 8) if bits else 1
