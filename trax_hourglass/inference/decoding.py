"""Samples from a model in mode 'predict' on the device: the prompt in one pass, then tokens in a compiled loop.

    sampler = Sampler(model, Choice(temperature=0.9, top_p=0.95))
    for sample in sampler.sample([b'Once upon', b'A much longer beginning'], length=200, seed=1):
      print(bytes(sample.tokens))

All sequences of a batch start at step 0 and advance together, whatever the lengths of their prompts. The first pass
covers the length of the shortest prompt; the loop forces the remaining tokens of longer prompts. So the groups of all
sequences complete at the same steps, and layers that run once per group run for the whole batch.

The key for the token at position p of sequence i is derived from (seed, i, p). So a sequence does not depend on the
other sequences or the batch size.

Letters: B batch, V vocabulary, S tokens of a piece, which are the iterations per call of the compiled loop.
"""

import dataclasses
import functools
import typing
import weakref

import jax
import jax.numpy as jnp
import numpy as np

from trax_hourglass.layers.scan import unstacked
from trax_hourglass.runtime import checks
from trax_hourglass.runtime.errors import InputError

START = 0  # The token before the first one, equal to the padding of the shift in other modes.


@dataclasses.dataclass(frozen=True)
class Choice:
  """Chooses the next token from logits.

  Attributes:
    temperature: divisor of the logits; 0 takes the most probable token.
    top_k: number of most probable tokens to choose from; None for all.
    top_p: chooses from the smallest set of most probable tokens with at least this total probability.

  Raises:
    InputError: a temperature below 0, top_k below 1, or top_p outside of (0, 1].
  """
  temperature: float = 1.0
  top_k: int | None = None
  top_p: float = 1.0

  def __post_init__(self):
    checks.check_choice(self.temperature, self.top_k, self.top_p)

  def filtered(self, logits):
    """Returns logits (..., V), less the largest, divided by the temperature; -inf where top_k or top_p exclude a token.

    Tokens as probable as the last included token are included too.
    """
    logits = (logits - logits.max(axis=-1, keepdims=True)) / self.temperature  # The largest is 0: none is infinite.
    ordered = jnp.sort(logits, axis=-1, descending=True)
    if self.top_k is not None and self.top_k < logits.shape[-1]:
      logits = jnp.where(logits < ordered[..., self.top_k - 1, None], -jnp.inf, logits)
      ordered = jnp.where(jnp.arange(ordered.shape[-1]) < self.top_k, ordered, -jnp.inf)
    if self.top_p < 1.0:
      probabilities = jax.nn.softmax(ordered)
      n_kept = (jnp.cumsum(probabilities, axis=-1) - probabilities < self.top_p).sum(axis=-1, keepdims=True)
      logits = jnp.where(logits < jnp.take_along_axis(ordered, n_kept - 1, axis=-1), -jnp.inf, logits)
    return logits

  def __call__(self, logits, keys):
    """Returns tokens (B,), int32, for logits (B, V) and one key per sequence, uint32 (B, 2)."""
    if self.temperature < np.finfo(np.float32).tiny:  # 0 in float32, or next to it.
      return logits.argmax(axis=-1).astype(jnp.int32)
    gumbel = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    return (self.filtered(logits) + gumbel).argmax(axis=-1).astype(jnp.int32)


class Sample(typing.NamedTuple):
  """Holds the sampled tokens of one sequence, or a piece of them, without the prompt.

  Attributes:
    tokens: int32 (n,), the stop token included.
    log_probs: float32 (n,), natural log-probability of each token under the model, regardless of the Choice.
  """
  tokens: np.ndarray
  log_probs: np.ndarray


class Sampler:
  """Samples from a model by compiled functions, one compilation per batch size and length of the shortest prompt."""

  def __init__(self, model, choice=Choice(), stop=None, piece=32, dtype='float32'):
    """Creates the sampler.

    Args:
      model: a `Hourglass` in mode 'predict' with its weights, which are copied, with stacked blocks unstacked.
      choice: the Choice.
      stop: stop token, which ends a sequence, or None.
      piece: S, number of tokens yielded at a time.
      dtype: type of weights, activations and KV caches, 'float32' or 'bfloat16'; softmax and logits are float32.

    Raises:
      InputError: a model in another mode, or numbers out of range.
    """
    if getattr(model, 'max_length', None) is None:
      raise InputError("the model cannot decode: build it with mode = 'predict'")
    if stop is not None and not 0 <= stop < model.vocab_size:
      raise InputError(f'stop is {stop}: give a token, 0 .. {model.vocab_size - 1}')
    if piece < 1:
      raise InputError(f'piece is {piece}: give the number of tokens that come out at a time, at least 1')
    self._model = model
    self._choice = choice
    self._stop = stop
    self._piece = piece
    self._dtype = dtype
    self._weights = self._cast(model.weights)
    self._weights_of_steps = jax.jit(lambda weights: unstacked(model, weights))(self._weights)
    self._first = jax.jit(self._first_pass, donate_argnums=1)
    self._more = jax.jit(self._loop, donate_argnums=1)

  def sample(self, prompts, length, seed=0, first_sequence=0):
    """Returns a Sample for each prompt; arguments and errors are those of `stream`."""
    pieces = list(self.stream(prompts, length, seed, first_sequence))
    return [Sample(*(np.concatenate(parts) for parts in zip(*of_one))) for of_one in zip(*pieces)]

  @property
  def model(self):
    """Returns the model."""
    return self._model

  @property
  def stop(self):
    """Returns the stop token, or None."""
    return self._stop

  def stream(self, prompts, length, seed=0, first_sequence=0, part=0):
    """Yields lists of Samples, a piece for each prompt, until all sequences have `length` tokens or the stop token.

    Args:
      prompts: sequences of tokens, bytes or arrays, which may be empty.
      length: number of tokens to sample after each prompt.
      seed: random seed, at least 0 and below 2^63, of which only the lower 32 bits are used.
      first_sequence: number of the first sequence, for the keys, so that sequences i .. j are drawn as in a full batch.
      part: number of this part of longer sequences, for the keys; see moving_window.py.

    Raises:
      InputError: no prompts, tokens outside the vocabulary, an invalid seed, or more tokens than `max_length`.
    """
    checks.check_seed(seed)
    prompts = [as_tokens(prompt, self._model.vocab_size) for prompt in prompts]
    longest = max(map(len, prompts), default=0)
    if not prompts or length < 1:
      raise InputError(f'{len(prompts)} prompts and {length} tokens to write: give at least one of each')
    if longest + length > self._model.max_length:
      raise InputError(f'a prompt of {longest} tokens and {length} more are over the maximum of '
                       f'{self._model.max_length}: shorten one of them, build the model with a larger '
                       'Hourglass.max_length, or go on by a moving window (--window N)')
    return self._stream(prompts, length, seed, first_sequence, part)

  def _stream(self, prompts, length, seed, first_sequence, part):
    n_before = min(map(len, prompts))
    batch, ends = len(prompts), np.array([len(prompt) + length for prompt in prompts])
    forced = np.full((batch, ends.max() + self._piece), -1, np.int32)
    for row, prompt in zip(forced, prompts):
      row[:len(prompt)] = prompt
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.PRNGKey(seed)))(
        first_sequence + jnp.arange(batch, dtype=jnp.uint32))
    keys = jax.vmap(lambda key: jax.random.fold_in(key, part))(keys) if part else keys
    beginning = np.concatenate([np.full((batch, 1), START, np.int32), forced[:, :n_before]], axis=1)
    start = self._cast(self._model.start(batch))
    carry, *first = self._first(self._weights, start, beginning, keys, forced[:, n_before])

    yield self._pieces([x[:, None] for x in first], n_before, prompts, ends)
    position = n_before + 1
    while position < ends.max() and not all(np.asarray(carry.done) | (ends <= position)):
      # Always of the same type; else the loop would be compiled again.
      n = np.int32(min(self._piece, ends.max() - position))
      here = forced[:, position:position + self._piece]
      carry, *written, n_written = self._more(self._weights_of_steps, carry, keys, here, np.int32(position), n)
      n_written = int(n_written)
      yield self._pieces([x[:, :n_written] for x in written], position, prompts, ends)
      position += n_written

  def _pieces(self, written, position, prompts, ends):
    """Returns the sampled part of tokens and log-probabilities (B, n), which start at `position`, as Samples."""
    tokens, log_probs = map(np.asarray, written)
    samples = []
    for row, (prompt, end) in enumerate(zip(prompts, ends)):
      new = slice(max(0, len(prompt) - position), max(0, end - position))
      samples.append(Sample(tokens[row, new], log_probs[row, new]))
      samples[-1] = Sample(*(x[:self._n_until_stop(row, samples[-1].tokens, ends)] for x in samples[-1]))
    return samples

  def _n_until_stop(self, row, tokens, ends):
    """Returns the number of tokens up to the stop token, included, and ends the sequence there."""
    stops = np.flatnonzero(tokens == self._stop) if self._stop is not None else ()
    if not len(stops):
      return len(tokens)
    ends[row] = 0
    return stops[0] + 1

  def _first_pass(self, weights, state, beginning, keys, forced):
    """Processes the beginning (B, n); returns the loop's carry, the next tokens and their log-probabilities."""
    vectors, state = self._model.vectors(beginning, weights, state, keys[0])
    position = beginning.shape[1] - 1
    tokens, log_probs = self._choose(self._model.logits(vectors[:, -1], weights), keys, position, forced)
    return _Carry(state, tokens, self._stops(tokens, forced)), tokens, log_probs

  def _loop(self, weights, carry, keys, forced, position, n):
    """Samples n tokens, at most S; fewer if all sequences stop earlier.

    Args:
      weights: the `unstacked` weights.
      carry: the _Carry.
      keys: a key for each sequence, uint32 (B, 2).
      forced: remaining prompt tokens (B, S), -1 beyond the prompt.
      position: position of the first token to sample.
      n: number of tokens to sample.

    Returns:
      The new carry, tokens (B, S), log-probabilities (B, S), and the number of valid columns.
    """
    def goes_on(loop):
      i, carry, *_ = loop
      return (i < n) & ~carry.done.all()

    def step(loop):
      i, carry, tokens, log_probs = loop
      here = jax.lax.dynamic_index_in_dim(forced, i, axis=1, keepdims=False)
      logits, state = self._model.pure_fn(carry.last[:, None], weights, carry.state, keys[0])
      chosen, log_prob = self._choose(logits[:, 0], keys, position + i, here)
      carry = _Carry(state, chosen, carry.done | self._stops(chosen, here))
      return i + 1, carry, _put(tokens, i, chosen), _put(log_probs, i, log_prob)

    nothing = jnp.zeros(forced.shape, jnp.float32)
    n_written, carry, tokens, log_probs = jax.lax.while_loop(
        goes_on, step, (jnp.zeros((), jnp.int32), carry, nothing.astype(jnp.int32), nothing))
    return carry, tokens, log_probs, n_written

  def _choose(self, logits, keys, position, forced):
    """Returns the tokens (B,) at a position, chosen or forced, and their log-probabilities."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, position))(keys)
    tokens = jnp.where(forced >= 0, forced, self._choice(logits, keys))
    return tokens, jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, None], axis=-1)[:, 0]

  def _stops(self, tokens, forced):
    return (tokens == self._stop) & (forced < 0) if self._stop is not None else jnp.zeros(tokens.shape, bool)

  def _cast(self, tree):
    return jax.tree.map(lambda x: x.astype(self._dtype) if x.dtype == jnp.float32 else x, tree)


class _Carry(typing.NamedTuple):
  """Holds the loop's carry: the model's state, the last tokens (B,), and the flags of stopped sequences (B,)."""
  state: typing.Any
  last: jax.Array
  done: jax.Array


def _put(x, i, column):
  return jax.lax.dynamic_update_slice_in_dim(x, column[:, None], i, axis=1)


def as_tokens(text, vocab_size):
  """Returns the tokens of a text of bytes or whole numbers as int32 (n,).

  Args:
    text: the text; a str must be encoded first.
    vocab_size: V.

  Raises:
    InputError: a str, or tokens outside the vocabulary.
  """
  if isinstance(text, str):
    raise InputError(f'{text[:20]!r} is a str: encode it, for example as UTF-8')
  tokens = np.frombuffer(text, np.uint8) if isinstance(text, bytes) else np.asarray(text)
  if tokens.ndim != 1 or tokens.size and not np.issubdtype(tokens.dtype, np.integer):
    raise InputError(f'tokens have shape {tokens.shape} and type {tokens.dtype}: give a sequence of whole numbers')
  if tokens.size:
    checks.check_vocabulary(tokens, vocab_size)
  return tokens.astype(np.int32)


def score(model, texts):
  """Returns the natural log-probabilities of each text's tokens given the tokens before, as float32 (n,) arrays.

  All texts run as one batch, padded on the right to a power of two, so that few lengths are compiled. With groups at
  boundaries, whose number depends on the padded length, texts of equal padded length run together.

  Args:
    model: a `Hourglass` with its weights, in mode 'eval' or 'predict'.
    texts: bytes or sequences of tokens, at least one token each.

  Raises:
    InputError: no texts, an empty text, a text longer than `max_length`, or tokens outside the vocabulary.
  """
  texts = [as_tokens(text, model.vocab_size) for text in texts]
  if not all(map(len, texts)) or not texts:
    raise InputError('there is nothing to score: give texts of at least one token each')
  longest = max(map(len, texts))
  if model.max_length is not None and longest > model.max_length:
    raise InputError(f'a text of {longest} tokens is longer than the maximum of {model.max_length}: build the model '
                     'with a larger Hourglass.max_length')
  padded_length = lambda n: min(1 << (n - 1).bit_length(), model.max_length or 1 << 62)
  has_boundaries = getattr(model, 'count_groups', None) is not None
  together = [padded_length(len(text) if has_boundaries else longest) for text in texts]
  scores = [None] * len(texts)
  for length in set(together):
    numbers = [number for number, of_text in enumerate(together) if of_text == length]
    for number, log_probs in zip(numbers, _scored(model, [texts[number] for number in numbers], length)):
      scores[number] = log_probs
  return scores


def _scored(model, texts, length):
  """Returns the log-probabilities of texts that run as one batch, padded to a length."""
  padded = np.zeros((len(texts), length), np.int32)
  for row, text in zip(padded, texts):
    row[:len(text)] = text
  decodes = model.max_length is not None
  state = model.start(len(texts)) if decodes else model.state
  inputs = np.concatenate([np.full((len(texts), 1), START, np.int32), padded[:, :-1]], axis=1) if decodes else padded
  log_probs = np.asarray(_log_probs(model, inputs.shape)(model.weights, state, inputs, padded))
  return [row[:len(text)] for row, text in zip(log_probs, texts)]


_compiled = weakref.WeakKeyDictionary()  # Keyed by model; a strong reference would keep its weights alive.


def _log_probs(model, shape):
  """Returns the compiled function (weights, state, inputs, targets) -> log-probabilities of targets of a shape."""
  if model not in _compiled:
    _compiled[model] = functools.lru_cache(maxsize=16)(functools.partial(_compile_log_probs, weakref.ref(model)))
  return _compiled[model](shape)


def _compile_log_probs(model, shape):
  del shape  # Only a key of the LRU cache, which evicts unused shapes.

  def log_probs(weights, state, inputs, targets):
    logits, _ = model().pure_fn(inputs, weights, state, jax.random.PRNGKey(0))
    return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]

  return jax.jit(log_probs)
