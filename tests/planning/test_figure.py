"""Tests the drawing of a hierarchy: levels, lengths, factors, residuals, and a reproducible file."""

import re

import gin
import pytest

from tests.helpers import processes
from trax_hourglass import plan


def figure(path, *arguments):
  """Returns the bytes of the figure of `plan --figure`."""
  gin.clear_config()
  plan.main(['--figure', str(path), *arguments])
  return path.read_bytes()


def drawn(svg):
  """Returns the texts of a figure; matplotlib writes each line of them as a comment."""
  return re.findall(r'<!-- (.*?) -->', svg.decode())


def test_levels_are_ordered_and_nested(tmp_path):
  svg = figure(tmp_path / 'a.svg', '--config', "Hourglass.hierarchy = '2@1 1@2 3@6 1@2 2@1'", '--config', 'length = 12')
  texts = drawn(svg)
  assert [text for text in texts if 'layer' in text] == ['2 layers', '1 layer', '3 layers', '1 layer', '2 layers']
  assert [text for text in texts if text.startswith('by')] == ['by 2', 'by 3', 'by 3', 'by 2']
  assert texts.count('residual') == 2 and [text for text in texts if ' x ' in text] == [
      f'{length} x 128' for length in (12, 6, 2, 6, 12)]
  assert figure(tmp_path / 'b.svg', '--config', "Hourglass.hierarchy = '2@1 1@2 3@6 1@2 2@1'", '--config',
                'length = 12') == svg


def test_readme_figure_equals_the_output_of_its_command(tmp_path):
  command, = re.findall(r'python -m trax_hourglass\.plan (.*?) +--figure docs/images/hourglass\.svg',
                        (processes.ROOT / 'README.md').read_text(encoding='utf-8').replace('\\\n', ' '))
  hierarchy, = re.findall(r'"(.*)"', command)
  svg = figure(tmp_path / 'a.svg', '--config_file', 'paper/enwik8_ablation.gin', '--config', hierarchy)
  assert drawn(svg) == drawn((processes.ROOT / 'docs' / 'images' / 'hourglass.svg').read_bytes())


@pytest.mark.parametrize('arguments, message', [
    (['--figure', 'a.pdf'], "--figure is 'a.pdf'; expected a name that ends with .svg or .png"),
    (['--figure', 'a.svg', '--config_file', 'baselines/enwik8_transformer_lm.gin'], 'fit.model has none'),
])
def test_invalid_figure_arguments_are_refused(arguments, message, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  gin.clear_config()
  with pytest.raises(SystemExit) as stop:
    plan.main(arguments)
  assert stop.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1] and not list(tmp_path.iterdir())
