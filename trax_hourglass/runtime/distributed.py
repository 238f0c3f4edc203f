"""Connects several hosts: every host starts the same command, and `connect` joins their devices by `jax.distributed`.

Letters: H hosts.
"""

import contextlib
import hashlib
import signal
import socket
import threading
import time

import jax
from jax._src.clusters import ClusterEnv
from jax.experimental import multihost_utils
import numpy as np

from trax_hourglass.runtime.errors import InputError

_RETRY_SECONDS = 0.2
_GRACE_SECONDS = 5.0
_GO = 'go'
_spoken = [False]  # Whether this host has reported to the others in `together`.


def connect(coordinator=None, n_hosts=None, host=None, seconds=300):
  """Connects this host to the others; must be called before any use of a device.

  Args:
    coordinator: 'ADDRESS:PORT' of host 0, a free port that all hosts can reach. None takes all three from the cluster
      that JAX detects: SLURM, Open MPI, Kubernetes, Cloud TPU.
    n_hosts: H.
    host: number of this host, 0 .. H - 1.
    seconds: timeout for the other hosts.

  Raises:
    InputError: contradictory numbers, no detectable cluster, or hosts that do not connect in time.
  """
  local_devices = None
  if coordinator is None:
    coordinator, n_hosts, host, local_devices = _detected(seconds)
  address, _, port = coordinator.rpartition(':')
  if not address or not port.isdecimal() or not 1 <= int(port) < 1 << 16:
    raise InputError(f"coordinator is {coordinator!r}: give ADDRESS:PORT of host 0, such as '10.0.0.1:1234'")
  if not isinstance(n_hosts, int) or n_hosts < 1:
    raise InputError(f'n_hosts is {n_hosts!r}: give the number of hosts')
  if not isinstance(host, int) or not 0 <= host < n_hosts:
    raise InputError(f"host is {host!r} of {n_hosts} hosts: give this one's number, from 0 to {n_hosts - 1}")
  # JAX would wait as well, but abort the process with a C++ stack trace if a host is missing.
  deadline = time.monotonic() + seconds
  if host == 0:
    _wait_for_all(coordinator, int(port), n_hosts, deadline)
  else:
    _wait_for_first(coordinator, (address, int(port)), n_hosts, host, deadline)
  jax.distributed.initialize(coordinator, n_hosts, host, local_devices, initialization_timeout=max(60, seconds))


def _detected(seconds):
  """Returns (coordinator, n_hosts, host, local device numbers or None) of the cluster that JAX detects."""
  # `initialize` detects the same, but cannot name missing hosts. JAX has no public function for the detection.
  try:
    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, seconds)
  except (ValueError, RuntimeError, KeyError) as error:
    raise InputError(f'the cluster could not be read ({error!r}): give coordinator, n_hosts and host') from error
  if None in found[:3]:
    raise InputError('no cluster could be detected: give coordinator, n_hosts and host')
  return found


def _wait_for_all(coordinator, port, n_hosts, deadline):
  """Waits until all other hosts have connected, and answers each with `_GO` or an error."""
  callers, answer = {}, None
  try:
    with socket.create_server(('', port)) as server:
      _take_calls(server, n_hosts, deadline, callers)
    answer = _GO
  except TimeoutError:
    missing = sorted(set(range(1, n_hosts)) - set(callers))
    answer = (f'hosts {missing} did not connect to {coordinator} in time: check that they run, that they can reach '
              'this address, and that no firewall closes the port')
  except OSError as error:
    answer = f'host 0 cannot listen on port {port} ({error}): choose another'
  except InputError as error:
    answer = str(error)
  for connection in callers.values():
    with contextlib.suppress(OSError), connection:
      connection.sendall(f'{answer}\n'.encode())
  if answer != _GO:
    raise InputError(answer)


def _take_calls(server, n_hosts, deadline, callers):
  """Accepts a connection from each of the other hosts, which sends its number and its number of hosts."""
  while len(callers) < n_hosts - 1:
    server.settimeout(max(_RETRY_SECONDS, deadline - time.monotonic()))
    connection, (address, *_) = server.accept()
    connection.settimeout(1.0)
    try:
      host, theirs = map(int, connection.makefile().readline().split())
    except (OSError, ValueError):  # Not a host of this run.
      connection.close()
      continue
    known = host in callers
    callers[(address, host) if known else host] = connection
    if theirs != n_hosts:
      raise InputError(f'host {host} at {address} counts {theirs} hosts, and host 0 {n_hosts}: give all hosts '
                       'the same n_hosts')
    if known:
      raise InputError(f'two hosts, the second at {address}, have the number {host}: give each its own')


def _wait_for_first(coordinator, address, n_hosts, host, deadline):
  """Waits until host 0 reports that all hosts are connected."""
  while True:
    left = max(_RETRY_SECONDS, deadline - time.monotonic())
    try:
      with socket.create_connection(address, timeout=left) as connection:
        connection.settimeout(left + _GRACE_SECONDS)  # Host 0 waits as long, then names the missing hosts.
        connection.sendall(f'{host} {n_hosts}\n'.encode())
        answer = connection.makefile().readline().strip()
      if answer != _GO:
        raise InputError(answer or f'host 0 at {coordinator} closed the connection')
      return
    except OSError as error:
      if time.monotonic() > deadline:
        raise InputError(f'host 0 did not answer at {coordinator} in time ({error}): check that it runs, that the '
                         'address is right, and that no firewall closes the port') from error
      time.sleep(_RETRY_SECONDS)


def end_by_sigterm():
  """Restores SIGTERM's default action in a multi-host run; `connect` made it a notice that only training checks."""
  # Python allows signal handlers in the main thread only.
  if jax.process_count() > 1 and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_first():
  """Returns whether this host is the one that writes files and prints."""
  return jax.process_index() == 0


def check_same(what, text):
  """Raises InputError on all hosts if their texts differ.

  Args:
    what: noun for the text, in the plural, for the message.
    text: the text of this host.
  """
  if jax.process_count() == 1:
    return
  digests = multihost_utils.process_allgather(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32))
  others = [host for host, digest in enumerate(digests) if (digest != digests[0]).any()]
  if others:
    raise InputError(f'{what} of hosts {others} are not those of host 0: start all hosts with the same')


def first_says(number):
  """Broadcasts the first host's integer and returns it on every host; all hosts must call this function."""
  if jax.process_count() == 1:
    return number
  return int(multihost_utils.broadcast_one_to_all(np.asarray(number, np.int32)))


@contextlib.contextmanager
def together(what):
  """Raises on all hosts if the block raised on any, so that no host waits forever.

  A host whose block raised reraises its error; the others raise InputError.

  Args:
    what: noun for the block, for the message on the other hosts.
  """
  error = None
  try:
    yield
  except Exception as raised:  # The other hosts must learn of any error.  pylint: disable=broad-except
    error = raised
  if jax.process_count() > 1:
    refused = np.flatnonzero(_tell(error is not None))
    if len(refused) and error is None:
      error = InputError(f'{what} failed on host {refused[0]}; see its log')
  if error is not None:
    raise error


@contextlib.contextmanager
def from_the_start():
  """Reports an error that this host meets before `together` to the other hosts, which wait there."""
  try:
    yield
  except Exception:
    if jax.process_count() > 1 and not _spoken[0]:
      # The cause, such as unequal devices, may prevent communication too.
      with contextlib.suppress(Exception):
        _tell(True)
    raise


def _tell(failed):
  """Gathers from all hosts whether they have failed."""
  _spoken[0] = True
  return multihost_utils.process_allgather(np.asarray(failed))
