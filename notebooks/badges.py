"""Writes what all notebooks begin with: the badge that opens them in Colab, and the cell that installs.

    python notebooks/badges.py

Run it after REPOSITORY has changed.
"""

import json
import pathlib
import re

REPOSITORY = 'OWNER/trax_hourglass'  # A placeholder: the project has no public address yet.
FOLDER = pathlib.Path(__file__).resolve().parent
_BADGE = re.compile(r'\[!\[Open in Colab\].*')
_INSTALL = f"""import os, sys
if 'google.colab' in sys.modules:
  !git clone -q https://github.com/{REPOSITORY}
  %cd -q trax_hourglass
elif os.path.basename(os.getcwd()) == 'notebooks':
  %cd -q ..
%pip install -q -r requirements.txt"""


def with_badge(name, notebook):
  """Returns a notebook, as JSON has it, with the badge and the cell that installs.

  Args:
    name: of the file.
    notebook: the notebook; its first cell has a badge already, its second installs.
  """
  badge = ('[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]'
           f'(https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{name})')
  first, second, *others = notebook['cells']
  first = {**first, 'source': _BADGE.sub(badge, ''.join(first['source'])).splitlines(keepends=True)}
  second = {**second, 'source': _INSTALL.splitlines(keepends=True)}
  return {**notebook, 'cells': [first, second, *others]}


def main():
  """Writes all notebooks."""
  for file in sorted(FOLDER.glob('*.ipynb')):
    notebook = json.loads(file.read_text(encoding='utf-8'))
    file.write_text(json.dumps(with_badge(file.name, notebook), indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
  main()
