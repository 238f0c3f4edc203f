"""Holds what all commands share: gin flags, one-line errors with exit code 2, clean stops. Imports nothing heavy."""

import argparse
import contextlib
import os
import pathlib
import re
import signal
import sys
import traceback

from trax_hourglass.runtime import compilation_cache
from trax_hourglass.runtime import errors
from trax_hourglass.runtime import startup
from trax_hourglass.runtime.errors import InputError


_COMMANDS = 'fit', 'compare'  # Errors in these may come from the run, not only from the bound arguments.
_MADE = re.compile(r"\n  In call to configurable '([\w.]+)'")


def add_gin_flags(parser):
  """Adds --config_file and --config."""
  parser.add_argument('--config_file', action='append', default=[], metavar='F.gin',
                      help='gin file; may be given several times, later files take precedence')
  parser.add_argument('--config', action='append', default=[], metavar="'X.y = z'",
                      help='one gin binding, wins over all files; may be given several times')


def add_host_flags(parser):
  """Adds the flags of multi-host runs; see distributed.py."""
  distributed = parser.add_argument_group('several hosts', 'start the same command on each; they share the run '
                                                           'directory')
  distributed.add_argument('--coordinator', metavar='ADDRESS:PORT', help='of host 0, where the hosts meet')
  distributed.add_argument('--n_hosts', type=int, metavar='N', help='number of hosts')
  distributed.add_argument('--host', type=int, metavar='I', help="this host's number, from 0")
  distributed.add_argument('--cluster', action='store_true',
                           help='take all three from the cluster: SLURM, Open MPI, Kubernetes, Cloud TPU')
  distributed.add_argument('--hosts_timeout', type=int, default=300, metavar='S',
                           help='seconds to wait for the other hosts')


def connect_hosts(args):
  """Connects the hosts by the flags of `add_host_flags`; without any of them, the process is the only host.

  Raises:
    InputError: flags that contradict each other, or hosts that do not connect; see `distributed.connect`.
  """
  given = {name: getattr(args, name) for name in ('coordinator', 'n_hosts', 'host') if getattr(args, name) is not None}
  if args.cluster and given:
    raise InputError(f'--cluster and --{next(iter(given))} exclude each other: the cluster gives all three')
  if given and len(given) < 3:
    raise InputError('--coordinator, --n_hosts and --host belong together: give all three')
  if args.cluster or given:
    from trax_hourglass.runtime import distributed  # pylint: disable=g-import-not-at-top
    distributed.connect(**given, seconds=args.hosts_timeout)


@contextlib.contextmanager
def running(args):
  """Runs a command within `errors_as_one_line`, with the compilation cache unless it is turned off.

  Args:
    args: arguments parsed by a `parser` of this module.
  """
  startup.open_standard_streams()
  with errors_as_one_line(args.command):
    _compute_in_32_bits()
    if not args.no_compilation_cache:
      compilation_cache.use()
    yield


def _compute_in_32_bits():
  """Turns JAX_ENABLE_X64 off: positions, hashes and everything trained have 32 bits."""
  if os.environ.get('JAX_ENABLE_X64', '0').lower() not in ('', '0', 'false', 'no', 'off', 'f', 'n'):
    print('JAX_ENABLE_X64 is set and has no effect here: models are computed in 32 bits', file=sys.stderr)
    os.environ['JAX_ENABLE_X64'] = '0'
    if 'jax' in sys.modules:
      sys.modules['jax'].config.update('jax_enable_x64', False)


@contextlib.contextmanager
def errors_as_one_line(command):
  """Reports a user's mistake as one line on stderr, with exit code 2.

  Ctrl-C exits with 130, and SIGTERM with 143. Other errors propagate, after their frames in the user's own files are
  printed.

  Args:
    command: name at the beginning of the line.
  """
  def stop(signum, frame):
    raise SystemExit(128 + signum)

  others = startup.other_copies()
  if others:
    print(f'{command}: there are other copies of trax_hourglass, in {", ".join(map(str, others))}; the one in use is '
          f'{startup.copy_in_use()}', file=sys.stderr)

  before = signal.signal(signal.SIGTERM, stop)
  try:
    yield
  except KeyboardInterrupt:
    with startup.without_reader():
      print(f'{command}: stopped', file=sys.stderr, flush=True)
    raise SystemExit(130) from None
  except BrokenPipeError:  # The reader of stdout has exited, as `| head` does.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Flushing the rest must not fail at exit.
    raise SystemExit(128 + signal.SIGPIPE) from None
  except Exception as error:
    line = _mistake(error)
    if line is None:
      _show_users_frames(command, error)
      raise
    with startup.without_reader():
      print(f'{command}: {line}', file=sys.stderr, flush=True)
    raise SystemExit(2) from None
  finally:
    signal.signal(signal.SIGTERM, before)


def _mistake(error):
  """Returns a user's mistake as one line, or None for an error in code, whose traceback is shown."""
  began = errors.cause(error)
  if isinstance(began, InputError):
    return errors.one_line(began)
  if isinstance(began, MemoryError) or 'RESOURCE_EXHAUSTED' in str(began):
    return f'not enough memory, {errors.one_line(began)}: give a smaller model, batch or length'
  if errors.users_frames(began) or isinstance(began, SyntaxError):  # In a user's module; gin's are InputErrors.
    return None
  if isinstance(began, OSError):
    return errors.one_line(began)
  made = _MADE.search(str(error))
  if made and made[1] not in _COMMANDS:
    return f'{made[1]} cannot be made, {errors.one_line(began).rstrip(".")}: check what is bound to it'
  return errors.one_line(began) if _is_gins(began) else None


def _is_gins(error):
  """Returns whether gin itself raised an error, such as for an unbound macro, and not code that gin calls."""
  *_, last = traceback.extract_tb(error.__traceback__)
  return pathlib.PurePath(last.filename).parts[-2:] == ('gin', 'config.py')


def _show_users_frames(command, error):
  """Prints the frames of an error in a user's own files, ahead of the full traceback."""
  began = errors.cause(error)
  frames = errors.users_frames(began)
  if frames:
    where = ''.join(traceback.format_list(frames))
    print(f'{command}: {type(began).__name__} in your code: {errors.one_line(began)}\n{where}\nFull traceback:',
          file=sys.stderr)


def parser(command, description):
  """Returns an ArgumentParser that prints the description as written and has the flags common to all commands.

  Args:
    command: name of the command.
    description: text that --help prints.
  """
  is_script = pathlib.PurePath(sys.argv[0]).stem == startup.SCRIPT
  made = argparse.ArgumentParser(
      prog=f'{startup.SCRIPT} {command}' if is_script else f'python -m trax_hourglass.{command}',
      description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  made.add_argument('--no_compilation_cache', action='store_true',
                    help="do not use the compilation cache in the user's cache folder")
  made.set_defaults(command=command)
  return made
