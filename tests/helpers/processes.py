"""Starts child processes of the tests: commands forked from a server that has imported Trax, and fresh interpreters.

Importing Trax and TensorFlow takes some eight seconds of a core. The server does it once for each worker and touches no
device, so that a child may have as many virtual ones as its XLA_FLAGS say.
"""

import atexit
import importlib
import importlib.metadata
import multiprocessing
from multiprocessing import connection
import os
import pathlib
import subprocess
import sys
import threading
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Tiny models take longer to compile than to run.
QUICK = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # Later versions abort at an unknown flag.
  QUICK += ' --xla_cpu_use_fusion_emitters=false'  # Halves the time: one LLVM module for many kernels, not for each.

_forkserver = multiprocessing.get_context('forkserver')
_forkserver.set_forkserver_preload(['tests.helpers.preloaded'])


def environment(**changes):
  """Returns the few environment variables of a child, so that the machine's own have no effect."""
  kept = {name: value for name, value in os.environ.items()
          if name.startswith(('JAX_COMPILATION_CACHE', 'JAX_PERSISTENT_CACHE'))}
  return {'PATH': '/usr/bin:/bin', 'PYTHONPATH': str(ROOT), **kept, **changes}


def start_python(*arguments, **variables):
  """Starts a fresh interpreter that finds package and tests, with captured output."""
  return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          cwd=ROOT, env=environment(**variables))


def python(*arguments, **variables):
  """Runs a fresh interpreter; returns its output and exit code."""
  process = start_python(*arguments, **variables)
  stdout, stderr = process.communicate()
  return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


class Command:
  """Runs a module's `main` in a forked process, with the part of `subprocess.Popen`'s interface that the tests use.

  Attributes:
    stdout, stderr: text streams, None for an output that goes to a file.
    pid: the process's.
  """

  def __init__(self, module, *arguments, stderr=None, before=None, **variables):
    """Starts the process.

    Args:
      module: name of a module with a function `main` of the list of arguments.
      *arguments: the command line.
      stderr: path of a file for stderr; None for a pipe.
      before: 'MODULE:FUNCTION' to call first, such as one that slows something down; None for nothing.
      **variables: of the environment, beside the few that all children have.
    """
    with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT)):  # The server begins with the first child.
      outputs, written = zip(*(self._output(path) for path in (None, stderr)))
      self.stdout, self.stderr = outputs
      self._process = _forkserver.Process(
          target=_run, args=(module, list(map(str, arguments)), environment(**variables), written, before))
      self._process.start()
    for end in written:
      end.close()
    self.pid = self._process.pid

  @staticmethod
  def _output(path):
    """Returns the stream that is read here, or None, and the end that the child writes to."""
    if path is not None:
      return None, connection.Connection(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), readable=False)
    read, write = os.pipe()
    return open(read, encoding='utf-8', errors='replace'), connection.Connection(write, readable=False)

  @property
  def returncode(self):
    """Returns the exit code, or minus the number of the signal that ended the process; None while it runs."""
    return self._process.exitcode

  def poll(self):
    """Returns the exit code, None while it runs."""
    return self.returncode

  def wait(self, timeout=None):
    """Waits for the end and returns the exit code.

    Raises:
      subprocess.TimeoutExpired: it is not there in time.
    """
    self._process.join(timeout)
    if self.returncode is None:
      raise subprocess.TimeoutExpired(self._process.name, timeout)
    return self.returncode

  def communicate(self, timeout=None):
    """Returns (stdout, stderr), all that is left of them, when the process has ended."""
    texts = ['', '']

    def read(number, stream):
      texts[number] = stream.read()

    threads = [threading.Thread(target=read, args=(number, stream))
               for number, stream in enumerate((self.stdout, self.stderr)) if stream]
    for thread in threads:
      thread.start()
    try:
      self.wait(timeout)
    except subprocess.TimeoutExpired:
      self.kill()
      raise
    for thread in threads:
      thread.join()
    return tuple(texts)

  def send_signal(self, number):
    """Sends a signal."""
    os.kill(self.pid, number)

  def kill(self):
    """Kills the process."""
    self._process.kill()


def _run(module, arguments, variables, outputs, before):
  """Runs in the child."""
  for number, output in enumerate(outputs, 1):
    os.dup2(output.fileno(), number)
    output.close()
  os.environ.clear()
  os.environ.update(variables)
  os.chdir(ROOT)
  sys.argv = [module, *arguments]
  if before is not None:
    name, _, function = before.partition(':')
    getattr(importlib.import_module(name), function)()
  try:
    importlib.import_module(module).main(arguments)
  finally:
    # multiprocessing skips exit handlers, and jax.distributed waits for the other hosts in one.
    atexit._run_exitfuncs()  # pylint: disable=protected-access
