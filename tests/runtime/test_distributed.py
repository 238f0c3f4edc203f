"""Tests several hosts: they connect or report why not; two processes train like one, and only one of them writes."""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
import types

import numpy as np
import pytest

from tests.helpers import processes
from tests.helpers import runs as runs_lib
from tests.helpers import sampling
from trax_hourglass.models import trax_checkpoint
from trax_hourglass.runtime import distributed
from trax_hourglass.runtime import sharding
from trax_hourglass.training import checkpoints
from trax_hourglass.training import preemption


def free_port():
  with socket.socket() as probe:
    probe.bind(('', 0))
    return probe.getsockname()[1]


def start_hosts(n_hosts, n_devices, *arguments):
  """Starts a command as each of n_hosts hosts, with n_devices virtual devices each, and returns the processes."""
  coordinator = f'127.0.0.1:{free_port()}'
  flags = f'--xla_force_host_platform_device_count={n_devices} {processes.QUICK}'
  return [
      processes.Command(
          *(argument.format(coordinator=coordinator, n_hosts=n_hosts, host=host) for argument in arguments),
          XLA_FLAGS=flags) for host in range(n_hosts)]


def run_hosts(n_hosts, n_devices, *arguments):
  """Runs a command as `start_hosts` does, and returns the stdout of each host."""
  processes = start_hosts(n_hosts, n_devices, *arguments)
  outputs = [process.communicate() for process in processes]
  assert [process.returncode for process in processes] == [0] * n_hosts, [error[-3000:] for _, error in outputs]
  return [stdout for stdout, _ in outputs]


def test_devices_and_hosts_do_not_change_the_losses():
  (part, n_devices), = sampling.some([('our_steps', 4)], [('all_our_steps', 8)])
  one, = run_hosts(1, n_devices, 'tests.helpers.many_devices', part)
  two, silent = run_hosts(2, n_devices // 2, 'tests.helpers.many_devices', part, '{coordinator}', '{n_hosts}', '{host}')
  assert '{' not in silent
  of_one, of_two = (json.loads(stdout.splitlines()[-1]) for stdout in (one, two))
  assert (len(of_one), len(of_two)) == sampling.some([(5, 1)], [(15, 10)])[0]
  for runs in (of_one, of_two):
    for name, losses in runs.items():
      expected = of_one[f'{name.split(",")[0]}, 1 devices, shared out: False']
      learnt = expected[0] - expected[-1]
      assert learnt > 0.5 or len(losses) == 5, 'too little was learnt for equal losses to say much'
      # Sums over devices have another order of addition. Adam amplifies that over 50 steps, and bfloat16 has 8 bits.
      is_coarse = name.startswith('bfloat16')
      np.testing.assert_allclose(losses[:5], expected[:5], rtol=5e-4 if is_coarse else 1e-5, err_msg=name)
      np.testing.assert_allclose(losses[5:], expected[5:], rtol=0, atol=(0.01 if is_coarse else 1e-4) * learnt,
                                 err_msg=name)


def test_a_two_host_run_resumes_on_one_host(tmp_path):
  flags = ['trax_hourglass.train', '--config_file', runs_lib.TINY, '--json', '--output_dir', str(tmp_path / 'two')]
  bindings = ('fit.shard_weights = True', 'Hourglass.d_model = 28')
  hosts_flags = ['--coordinator', '{coordinator}', '--n_hosts', '{n_hosts}', '--host', '{host}']
  stdout, silent = run_hosts(2, 1, *flags, *(flag for binding in (*bindings, 'fit.n_steps = 2', 'fit.keep_every = 2')
                                             for flag in ('--config', binding)), *hosts_flags)
  assert json.loads(stdout.splitlines()[-1])['step'] == 2 and '{' not in silent
  assert all(len(os.listdir(tmp_path / 'two' / part)) == 1 for part in ('train', 'eval'))
  assert trax_checkpoint.read_step(tmp_path / 'two' / 'model_2.pkl.gz') == 2

  resumed = runs_lib.run(tmp_path / 'two', *bindings)
  whole = runs_lib.run(tmp_path / 'one', *bindings)
  assert resumed.step == whole.step == 4
  np.testing.assert_allclose(resumed.valid_bits_per_token, whole.valid_bits_per_token, rtol=1e-5)

  scored = ['trax_hourglass.evaluate', '--output_dir', str(tmp_path / 'two'), '--json', *hosts_flags]
  stdout, silent = run_hosts(2, 1, *scored, '--max_tokens', '100')
  np.testing.assert_allclose(
      json.loads(stdout.splitlines()[-1])['bits_per_byte'], resumed.valid_bits_per_token, rtol=1e-5)
  assert 'bits_per_byte' not in silent  # JAX's connections write their own lines.
  shutil.copy(tmp_path / 'two' / 'config.gin', tmp_path / 'config-0.gin')
  for flags, messages in ((('--max_tokens', '9{host}'), ['arguments of hosts [1] are not those of host 0'] * 2),
                          (('--config_file', f'{tmp_path}/config-{{host}}.gin'), ['failed on host 1', 'config-1.gin'])):
    processes = start_hosts(2, 1, *scored, *flags)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], [error[-3000:] for error in errors]
    assert all(message in error for message, error in zip(messages, errors)), errors


def test_preempting_one_host_saves_and_stops_both(tmp_path):
  """After SIGTERM on one of two hosts, both save the same step and stop, and the run resumes on one host."""
  long = ('n_steps = 5000', 'fit.shard_weights = True', 'Hourglass.d_model = 28')
  processes = start_hosts(
      2, 1, 'trax_hourglass.train', '--config_file', runs_lib.TINY, '--output_dir', str(tmp_path),
      *(flag for binding in (*long, 'fit.checkpoint_every = 5000', 'fit.eval_every = 5000')
        for flag in ('--config', binding)), '--coordinator', '{coordinator}', '--n_hosts', '{n_hosts}', '--host',
      '{host}')
  for line in processes[0].stderr:
    if line.startswith('step 1/'):
      break
  processes[1].send_signal(signal.SIGTERM)
  errors = [process.communicate()[1] for process in processes]
  assert [process.returncode for process in processes] == [143, 143], [error[-3000:] for error in errors]
  step, = checkpoints.Store(tmp_path).steps()
  assert 1 < step < 5000 and f'stopped at step {step}, which is saved' in errors[0]
  assert runs_lib.run(tmp_path, *long, f'n_steps = {step + 1}').step == step + 1


def test_a_locked_run_directory_stops_all_hosts(tmp_path):
  """If another process trains in the directory, only the first host sees the lock, and all hosts end."""
  with open(tmp_path / 'run.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    processes = start_hosts(2, 1, 'trax_hourglass.train', '--config_file', runs_lib.TINY, '--output_dir', str(tmp_path),
                            '--coordinator', '{coordinator}', '--n_hosts', '{n_hosts}', '--host', '{host}')
    errors = [process.communicate()[1] for process in processes]
  assert [process.returncode for process in processes] == [2, 2], [error[-3000:] for error in errors]
  assert 'trains in' in errors[0] and 'failed on host 0; see its log' in errors[1]


@pytest.mark.parametrize('bindings, messages', [
    (['fit.seed = {host}'], ['settings of hosts \\[1\\] are not those of host 0'] * 2),
    # The first steps are still finite at this rate. The first host prints, and reads losses at times set by its clock.
    (['peak_learning_rate = 3e19', 'n_steps = 6000', 'warmup_steps = 1000', 'fit.eval_every = 6000'],
     ['of step [2-9] are not finite'] * 2),
    (["ByteCorpus.path = '{folder}/corpus-{host}'"],
     ['reading the data failed on host 1', 'corpus-1.* does not exist']),
])
def test_an_error_on_one_host_stops_all_hosts(tmp_path, bindings, messages):
  (tmp_path / 'corpus-0').write_bytes(b'abc' * 500)
  flags = [flag for binding in bindings for flag in ('--config', binding)]
  processes = start_hosts(2, 1, 'trax_hourglass.train', '--config_file', runs_lib.TINY, '--output_dir',
                          str(tmp_path / 'run'), *(flag.replace('{folder}', str(tmp_path)) for flag in flags),
                          '--coordinator', '{coordinator}', '--n_hosts', '{n_hosts}', '--host', '{host}')
  errors = [process.communicate(timeout=300)[1] for process in processes]
  assert [process.returncode for process in processes] == [2, 2], [error[-3000:] for error in errors]
  assert all(re.search(message, error) for message, error in zip(messages, errors)), errors


def test_hosts_with_unequal_device_counts_are_refused(monkeypatch):
  devices = [types.SimpleNamespace(process_index=host) for host in (0, 0, 1)]
  for name, value in (('process_count', 2), ('device_count', 3), ('devices', devices)):
    monkeypatch.setattr(sharding.jax, name, lambda value=value: value)
  for n_devices in (None, 2):
    with pytest.raises(ValueError, match='hosts have 2, 1 devices'):
      sharding.over_devices(n_devices)


def test_errors_are_raised_even_if_hosts_cannot_communicate(monkeypatch):
  """With unequal device counts, JAX cannot gather the answers of the hosts."""
  monkeypatch.setattr(distributed.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(distributed, '_spoken', [False])

  def allgather(x):
    raise ValueError('cannot reshape array of size 3 into shape (2,2)')

  monkeypatch.setattr(distributed.multihost_utils, 'process_allgather', allgather)
  with pytest.raises(ValueError, match='hosts have 2, 1 devices'), distributed.from_the_start():
    raise ValueError('hosts have 2, 1 devices')


def test_sigterm_handler_is_default_after_multi_host_training(monkeypatch):
  monkeypatch.setattr(preemption.jax, 'process_count', lambda: 2)
  before = signal.signal(signal.SIGTERM, lambda *_: None)
  try:
    with preemption.Stopping():
      assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  finally:
    signal.signal(signal.SIGTERM, before)


def test_an_error_of_any_type_reaches_all_hosts(monkeypatch):
  monkeypatch.setattr(distributed.jax, 'process_count', lambda: 2)
  told = []
  def allgather(x):
    told.append(bool(x))
    return np.array([True, False])

  monkeypatch.setattr(distributed.multihost_utils, 'process_allgather', allgather)
  with pytest.raises(PermissionError), distributed.together('opening'):
    raise PermissionError('not yours')
  with pytest.raises(ValueError, match='opening failed on host 0'), distributed.together('opening'):
    pass
  assert told == [True, False]


def meet(*others, n_hosts=2, seconds=5):
  """Lets host 0 wait for other hosts, given as (number, expected count), and returns {name: error message or None}."""
  coordinator, messages = f'127.0.0.1:{free_port()}', {}
  deadline = time.monotonic() + seconds

  def say(name, function, *arguments):
    try:
      function(*arguments)
      messages[name] = None
    except ValueError as error:
      messages[name] = str(error)

  port = int(coordinator.split(':')[1])
  threads = [
      threading.Thread(target=say, args=('first', distributed._wait_for_all, coordinator, port, n_hosts, deadline))
  ]
  for place, (host, theirs) in enumerate(others):
    threads.append(
        threading.Thread(
            target=say,
            args=(place, distributed._wait_for_first, coordinator, ('127.0.0.1', port), theirs, host, deadline)))
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return messages


def test_hosts_find_each_other():
  assert meet((1, 3), (2, 3), n_hosts=3) == {'first': None, 0: None, 1: None}


@pytest.mark.parametrize('others, n_hosts, seconds, message', [
    ([(1, 3)], 2, 5, 'host 1 at 127.0.0.1 counts 3 hosts, and host 0 2: give all hosts the same n_hosts'),
    ([(1, 3), (1, 3)], 3, 5, 'two hosts, the second at 127.0.0.1, have the number 1: give each its own'),
    ([(2, 3)], 3, 1, r'hosts \[1\] did not connect to 127.0.0.1:\d+ in time'),
])
def test_connection_errors_reach_all_hosts(others, n_hosts, seconds, message):
  messages = meet(*others, n_hosts=n_hosts, seconds=seconds)
  assert len(messages) == 1 + len(others)
  assert all(re.search(message, said) for said in messages.values()), messages


@pytest.mark.parametrize('arguments, message', [
    ({'coordinator': 'here'}, "coordinator is 'here'"), ({'coordinator': 'a:b'}, "coordinator is 'a:b'"),
    ({'coordinator': 'a:1', 'n_hosts': 0}, 'n_hosts is 0'),
    ({'coordinator': 'a:1', 'n_hosts': 2, 'host': 2}, 'host is 2 of 2'),
    ({'coordinator': f'127.0.0.1:{free_port()}', 'n_hosts': 2, 'host': 1, 'seconds': 1},
     'host 0 did not answer at 127.0.0.1'),
    ({}, 'no cluster could be detected'),
])
def test_invalid_connection_settings_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    distributed.connect(**arguments)


@pytest.mark.parametrize('host, message', [(0, r'hosts \[1\] did not connect to 127.0.0.1:4242'),
                                           (1, 'host 0 did not answer at 127.0.0.1:4242')])
def test_missing_hosts_of_a_cluster_are_reported(monkeypatch, host, message):
  variables = {
      'SLURM_JOB_ID': 7, 'SLURM_STEP_NODELIST': '127.0.0.1', 'SLURM_NTASKS': 2, 'SLURM_PROCID': host,
      'SLURM_LOCALID': 0, 'JAX_COORDINATOR_PORT': 4242
  }
  for name, value in variables.items():
    monkeypatch.setenv(name, str(value))
  with pytest.raises(ValueError, match=message):
    distributed.connect(seconds=1)
