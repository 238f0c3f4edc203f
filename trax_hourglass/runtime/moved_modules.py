"""Redirects imports of modules that have moved since the flat package of version 0.1, or reports their new names."""

import importlib
import importlib.abc
import importlib.util
import sys

_PACKAGE = 'trax_hourglass'
# The README and notebooks of version 0.1 named these, so their imports still work.
_FOUND = {
    'attention_maps': 'inference.attention_maps', 'command_line': 'runtime.gin_config', 'configurables': 'registry',
    'decoding': 'inference.decoding', 'evaluation': 'inference.scoring', 'hierarchy': 'models.hierarchy',
    'interop': 'models.interop', 'report': 'comparison.report', 'run_directory': 'training.run_directory',
    'run_evaluation': 'training.evaluate_run', 'spec': 'layers.plugins',
}
_SAID = {
    'affine': 'ops.dense', 'attention': 'ops.attention', 'attention_layers': 'layers.attention',
    'blocks': 'layers.blocks', 'blockwise': 'ops.tiled_attention', 'budget': 'comparison.budget',
    'cached_attention': 'ops.kv_cache', 'checkpoints': 'training.checkpoints', 'comparison_rows': 'comparison.rows',
    'cudnn_attention': 'ops.cudnn_attention', 'data.evaluation_windows': 'inference.windows',
    'data.images': 'data.image_tokens', 'data.shares': 'data.splits', 'data.wikipedia': 'data.enwik8',
    'dropout': 'ops.dropout', 'embedding': 'layers.core', 'factor_dropout': 'layers.factor_dropout',
    'flops': 'models.flops', 'halved': 'layers.scan', 'host_random': 'layers.trax_random',
    'hosts': 'runtime.distributed', 'hourglass': 'models.hourglass', 'kept_programs': 'runtime.compilation_cache',
    'keys': 'ops.prng', 'local_attention': 'ops.local_attention', 'loss': 'layers.loss',
    'measurement': 'comparison.step_cost', 'mesh': 'runtime.sharding', 'per_group': 'layers.group_decoding',
    'recompute': 'ops.remat', 'resampling': 'layers.resampling', 'scanned': 'layers.scan', 'scoring_progress':
    'runtime.progress', 'sealed_folder': 'training.checksums', 'tiles': 'ops.tiling', 'training.clock':
    'comparison.step_timer', 'training.event_files': 'training.tensorboard', 'training.run_record':
    'training.resume', 'training.stopping': 'training.preemption', 'trax_attention': 'layers.trax_attention',
    'trax_compat': 'runtime.trax_compat', 'trax_files': 'models.trax_checkpoint', 'trax_model':
    'models.trax_language_model', 'whole_file': 'runtime.atomic_files', 'writing': 'cli.write_text',
}


def install():
  """Installs the import hook for moved modules in this process."""
  if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
    sys.meta_path.append(_Moved())


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Finds moved modules that no other finder has found."""

  def find_spec(self, fullname, path=None, target=None):
    package, _, name = fullname.partition('.')
    if package != _PACKAGE:
      return None
    if name in _SAID:
      raise ModuleNotFoundError(f'{fullname} is now {_PACKAGE}.{_SAID[name]}: import that', name=fullname)
    return importlib.util.spec_from_loader(fullname, self) if name in _FOUND else None

  def create_module(self, spec):
    return None

  def exec_module(self, module):
    name = module.__name__.partition('.')[2]
    sys.modules[module.__name__] = importlib.import_module(f'{_PACKAGE}.{_FOUND[name]}')
