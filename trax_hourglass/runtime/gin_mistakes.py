"""Suggests corrections of lines that gin rejects."""

import difflib
import inspect
import io
import re
import tokenize

from gin import config

_NO_PARAMETER = re.compile(r"Configurable '([\w./]+)' doesn't have a parameter named '(\w+)'")
_NO_CONFIGURABLE = re.compile(r"No configurable matching (?:reference )?'@?([\w./]+)(?:\(\))?'")
_MACRO = re.compile(r'^\s*(\w+)\s*=', re.MULTILINE)
_READ = re.compile(r'%([\w./]+)')
_LINE = re.compile(r'\s*([\w./]+)\s*=\s*(\S.*?)\s*$')


def meant(message):
  """Returns '; did you mean ...?' for gin's message about an unknown name, or ''."""
  if found := _NO_PARAMETER.search(message):
    known, name = _parameters(found[1]), found[2]
  elif found := _NO_CONFIGURABLE.search(message):
    known, name = _configurables(), found[1].rpartition('.')[2]
  else:
    return ''
  close = difflib.get_close_matches(name, sorted(known), n=1)
  return f'; did you mean {close[0]!r}?' if close else ''


# gin has no public access to either.  pylint: disable=protected-access
def _configurables():
  return {selector.rpartition('.')[2] for selector, _ in config._REGISTRY.items()}


def _parameters(name):
  return set(inspect.signature(config._REGISTRY.get_match(name).wrapped).parameters)
# pylint: enable=protected-access


# pylint: disable=protected-access
def circle():
  """Returns a binding that refers to itself, directly or through others, as text, or None."""
  made_with = {}
  for (scope, selector), parameters in config._CONFIG.items():
    for name, value in parameters.items():
      made_with.setdefault((scope, selector), []).extend((name, reference) for reference in _references(value))

  def leads_back(key, start, seen):
    for _, reference in made_with.get(key, ()):
      if reference == start or reference not in seen and leads_back(reference, start, seen | {reference}):
        return True
    return False

  for key, parts in made_with.items():
    for name, reference in parts:
      if reference == key or leads_back(reference, key, {reference}):
        scope, selector = key
        return scope if selector == 'gin.macro' else f'{selector.rpartition(".")[2]}.{name}'
  return None


def unread(lines):
  """Returns a message about a macro that the lines bind and no bound setting reads, or None.

  Rows of a comparison are text, and may read macros too; files that they include are not searched.
  """
  values = [value for parameters in config._CONFIG.values() for value in parameters.values()]
  read = {scope for value in values for scope, selector in _references(value) if selector == 'gin.macro'}
  texts = '\n'.join(text for value in values for text in _texts(value))
  read.update(_READ.findall(texts))
  for name in _MACRO.findall('\n'.join(lines)):
    if name not in read and (name, 'gin.macro') in config._CONFIG and 'include ' not in texts:
      settings = {f'{selector.rpartition(".")[2]}.{name}' for _, selector in config._CONFIG
                  if selector != 'gin.macro' and name in _parameters(selector)}
      close = [*sorted(settings), *difflib.get_close_matches(name, sorted(read), n=1)]
      hint = f'; did you mean {close[0]!r}?' if close else ': leave it out'
      return f'no setting of this config reads the macro {name!r}{hint}'
  return None


def _texts(value):
  """Yields all strings in a value."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, (tuple, list, dict)):
    for part in value.values() if isinstance(value, dict) else value:
      yield from _texts(part)


def _references(value):
  """Yields the keys of all references that are evaluated with a value."""
  if isinstance(value, config.ConfigurableReference):
    if value.evaluate:
      yield value.config_key
  elif isinstance(value, (tuple, list, dict)):
    for part in value.values() if isinstance(value, dict) else value:
      yield from _references(part)
# pylint: enable=protected-access


def quoted(line):
  """Returns a hint for a line whose value is text without quotes or with unmatched quotes, or ''."""
  found = _LINE.match(line or '')
  if not found:
    return ''
  name, value = found.groups()
  if '"' in value or "'" in value:
    return '; the quotes do not match' if value.count('"') % 2 or value.count("'") % 2 else ''
  is_other = value[0] in '@%([{' or re.fullmatch(r'[\d.eE+-]+|True|False|None', value)
  return '' if is_other else f"; strings need quotes: set {name} = '{value}'"


def has_no_end(text):
  """Returns whether a quote or bracket of a text is never closed."""
  try:
    list(tokenize.generate_tokens(io.StringIO(text).readline))
  except (tokenize.TokenError, SyntaxError):  # SyntaxError for quotes, in Python 3.12 and later.
    return True
  return False
